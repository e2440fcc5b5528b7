"""From trained weights to those that a network of other classes begins with, and an account of what was kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.model.architecture import AlexNet, Architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint
from training.data.lists.class_names import match_classes
from training.start.sources import Source

_LAST = "classifier.6"
Outcome = Literal["loaded", "loaded by name", "drawn anew", "left over"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What became of one layer of the network, or of a tensor of the source."""

    layer: str
    shape: tuple[int, ...]
    """Of its weight; empty for what is left over."""
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class StartReport:
    """What a network begins with."""

    source: str
    arch: Architecture
    """Of the source."""
    preprocessing: Preprocessing
    """Of the source."""
    rows: tuple[LayerRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def drawn(self) -> tuple[str, ...]:
        """The layers that are drawn anew."""
        return tuple(row.layer for row in self.rows if row.outcome == "drawn anew")


def no_report(report: StartReport) -> None:
    """For callers that show nothing."""


def begin_with(
    source: Source, arch: Architecture, class_ids: Sequence[str], *, init: Literal["paper", "kaiming"], seed: int
) -> tuple[Checkpoint, StartReport]:
    """The weights that a run of ``arch`` on ``class_ids`` begins with, and where each layer's come from.

    ``arch`` has the source's shapes, except for the classes (``network.network_for``). The last layer is kept where the
    source knows all classes, its rows by their names. Otherwise ``init`` draws it from ``seed``, like all that the
    source lacks.
    """
    rows, why = _rows_of(source, class_ids)
    kept = {key: value.float() for key, value in source.weights.items() if not key.startswith(f"{_LAST}.")}
    if rows is not None:
        kept |= {f"{_LAST}.{kind}": source.weights[f"{_LAST}.{kind}"].float()[rows] for kind in ("weight", "bias")}
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in AlexNet(arch).state_dict().items()}
    weights = kept if kept.keys() == shapes.keys() else _drawn(arch, init, seed) | kept
    outcomes = [_row(key, shape, key in kept, rows, source, why) for key, shape in shapes.items() if _is_weight(key)]
    if rows is None and f"{_LAST}.weight" in source.weights:
        outcomes.append(LayerRow(f"{_LAST} of the source", (), "left over", f"its {source.arch.num_classes} classes"))
    outcomes += [LayerRow(key, (), "left over") for key in source.left_over]
    report = StartReport(source.name, source.arch, source.contract.preprocessing, tuple(outcomes), source.notes)
    contract = dataclasses.replace(
        source.contract.uncalibrated(), labels=tuple(class_ids), class_ids=tuple(class_ids), activation="softmax"
    )
    # It travels with the checkpoint, so no folders of this machine.
    origin = source.name if "://" in source.name else Path(source.name).resolve().name
    record = {"source": origin, "architecture": source.arch.name, "drawn_anew": list(report.drawn)}
    return Checkpoint(arch, contract, weights, {"started_from": record}), report


def _rows_of(source: Source, class_ids: Sequence[str]) -> tuple[list[int] | None, str]:
    """The source's output for each class, None for a new last layer; and why, for people."""
    if f"{_LAST}.weight" not in source.weights:
        return None, "the source has no last layer"
    if not source.has_names:
        return None, "the source does not name its classes"
    found = match_classes(source.contract, class_ids)
    rows = [number for number in found if number is not None]
    if len(rows) < len(found):
        new = class_ids[found.index(None)]
        count = len(found) - len(rows)
        return None, f"{count} of {len(found)} classes {'is' if count == 1 else 'are'} new to the source ({new})"
    if len(rows) < source.arch.num_classes:
        return rows, f"{len(rows)} of the source's {source.arch.num_classes} classes"
    if any(source.contract.class_ids[row] != class_id for row, class_id in zip(rows, class_ids, strict=True)):
        return rows, "by the labels of the source"
    return rows, "" if rows == sorted(rows) else "the source has the same classes in another order"


def _row(key: str, shape: tuple[int, ...], kept: bool, rows: list[int] | None, source: Source, why: str) -> LayerRow:
    layer = key.removesuffix(".weight")
    if layer != _LAST:
        return LayerRow(layer, shape, "loaded" if kept else "drawn anew", "" if kept else "the source has none")
    if rows is None:
        return LayerRow(layer, shape, "drawn anew", why)
    return LayerRow(layer, shape, "loaded by name" if why else "loaded", why)


def _is_weight(key: str) -> bool:
    return key.endswith(".weight")


def _drawn(arch: Architecture, init: Literal["paper", "kaiming"], seed: int) -> dict[str, Tensor]:
    """New weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AlexNet(arch)
        initialise(model, init)
    return {key: value.detach() for key, value in model.state_dict().items()}
