"""The network of a run: that of the settings or, where it begins with trained weights, of their source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.json_format import decode_json, read_users_file
from alexnet_deploy.model.architecture import Architecture, get_architecture
from training.choices import Activation, Freeze, Lrn, Pool, Resize
from training.recipes.recipe import Recipe
from training.start.begin import StartReport
from training.start.sources import Source


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network of a run and what it begins with; the names are those of the command's options."""

    arch: str | None = None
    """None: that of ``start``, else ``alexnet``. The same holds for all of the network and for ``resize``."""
    dense_rank: int | None = None
    """Rank of the two hidden dense layers; None: full."""
    dropout: float | None = None
    activation: Activation | None = None
    lrn: Lrn | None = None
    pool: Pool | None = None
    groups: Sequence[int] | None = None
    """Groups of each of the five convolutions."""
    resize: Resize | None = None
    class_names: Path | None = None
    """JSON file ``{"folder name": "name for people"}``."""
    start: str | Path | None = None
    """Trained weights to start from instead of random ones, as ``read_source`` takes them."""
    freeze: Freeze = "none"
    head_lr: float | None = None
    """Peak rate of the last layer."""
    unfreeze_every: int | None = None
    """Epochs after which one more of the frozen layers learns."""


def preprocessing_for(settings: NetworkSettings, recipe: Recipe, source: Source | None) -> Preprocessing:
    """That of the source, whose weights were trained with it, except for an asked resize rule."""
    pre = Preprocessing(std=recipe.pixel_std) if source is None else source.contract.preprocessing
    if settings.resize in (None, pre.resize):
        return pre
    return dataclasses.replace(pre, resize=settings.resize, resize_to=None if settings.resize == "stretch" else 256)


def architecture_for(settings: NetworkSettings, classes: int, source: Source | None) -> Architecture:
    """The network of ``settings`` with ``classes`` outputs; UsageError for a setting that cannot be."""
    if source is None:
        arch = get_architecture(settings.arch or "alexnet", num_classes=classes, dense_rank=settings.dense_rank)
    else:
        arch = _fitting(settings, source, classes)
    changes: dict[str, Any] = {"activation": settings.activation, "lrn": settings.lrn, "dropout": settings.dropout}
    if settings.pool is not None:
        changes["overlapping_pool"] = settings.pool == "overlapping"
    if settings.groups is not None:
        changes["groups"] = _checked_groups(tuple(settings.groups), arch)
    return dataclasses.replace(arch, **{key: value for key, value in changes.items() if value is not None})


def _checked_groups(groups: tuple[int, ...], arch: Architecture) -> tuple[int, ...]:
    text = ",".join(map(str, groups))
    if len(groups) != len(arch.widths) or min(groups) < 1:
        raise UsageError(f"`groups` {text}: must be five whole numbers, one per convolution, such as 1,2,1,2,2")
    for number, (count, fan_in, fan_out) in enumerate(zip(groups, (3, *arch.widths), arch.widths, strict=False), 1):
        if fan_in % count or fan_out % count:
            raise UsageError(
                f"`groups` {text}: {count} does not divide the {fan_in} channels into convolution {number} of "
                f"{arch.name} and the {fan_out} out of it; choose a number that does"
            )
    return groups


def labels_for(settings: NetworkSettings, class_ids: tuple[str, ...], source: Source | None) -> tuple[str, ...]:
    """The name for people of each class: by ``class_names``, else the source's, else that of its folder.

    InputError if the file cannot be read or lacks a class.
    """
    class_names = settings.class_names
    if class_names is None:
        known = source.contract if source is not None and source.has_names else None
        names = {} if known is None else dict(zip(known.class_ids, known.labels, strict=True))
        return tuple(names.get(class_id, class_id) for class_id in class_ids)
    try:
        names = decode_json(read_users_file(class_names), dict[str, Any])
        labels = tuple(str(names[class_id]) for class_id in class_ids)
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(
            f'{class_names}: is not a readable JSON object ({exc}); write {{"folder name": "name for people"}}'
        ) from exc
    except KeyError as exc:
        raise InputError(f"{class_names}: has no name for class {exc.args[0]!r}; add it") from exc
    odd = next((number for number, label in enumerate(labels) if not label.isprintable() or not label.strip()), None)
    if odd is not None:
        raise InputError(
            f"{class_names}: the name of class {class_ids[odd]!r} is empty or cannot be printed; write it in one line"
        )
    return labels


def _fitting(settings: NetworkSettings, source: Source, classes: int) -> Architecture:
    """The source's architecture with ``classes`` outputs; UsageError for a setting that its weights do not fit."""
    its, arch, dense_rank, groups = source.arch, settings.arch, settings.dense_rank, settings.groups
    if arch not in (None, its.name):
        raise UsageError(f"`arch` {arch}: `start` {source.name} holds {its.name}; leave `arch` out")
    if dense_rank is not None and dense_rank != its.dense_rank:
        if its.dense_rank is None:
            raise UsageError(
                f"`dense_rank` {dense_rank}: `start` {source.name} has full rank; leave `dense_rank` out, and compress "
                "the trained checkpoint (python -m training compress)"
            )
        raise UsageError(
            f"`dense_rank` {dense_rank}: `start` {source.name} has rank {its.dense_rank}; leave `dense_rank` out"
        )
    if groups is not None and tuple(groups) != its.groups:
        raise UsageError(
            f"`groups` {','.join(map(str, groups))}: `start` {source.name} has {','.join(map(str, its.groups))}; "
            "leave `groups` out"
        )
    return dataclasses.replace(its, num_classes=classes)


def check_freeze(recipe: Recipe, report: StartReport | None) -> None:
    """UsageError if the recipe holds layers that were not trained, or unfreezes what is not frozen."""
    if recipe.unfreeze_every is not None and recipe.freeze is None:
        raise UsageError(
            f"`unfreeze_every` {recipe.unfreeze_every}: nothing is frozen; add `freeze` features or all-but-head"
        )
    if recipe.freeze is None:
        return
    if report is None:
        raise UsageError(f"`freeze` {recipe.freeze}: there are no trained weights to keep; add `start`")
    held = [layer for layer in report.drawn if layer != "classifier.6"]
    if recipe.freeze == "all-but-head" and held:
        raise UsageError(
            f"`freeze` all-but-head: `start` {report.source} has no {held[0]}, which is drawn anew and must learn; use "
            "`freeze` features"
        )
