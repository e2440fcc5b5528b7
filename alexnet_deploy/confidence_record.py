"""``confidence.json``: the fit that a bundle's temperature comes from."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle import CONFIDENCE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.reliability import Bin

SCHEMA = 1
MAX_RECORD_BYTES = 1 << 20
"""A record is some 10 KiB."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How far probabilities can be believed, on the images of the fit; units as in ``accuracy.Confidence``."""

    nll_nats: float
    ece_percent: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class ConfidenceRecord:
    """One fit of a temperature, and what it did to the very images that it was fitted on."""

    temperature: float
    images: int
    classes: int
    """How many of the model's classes have images."""
    images_digest: str
    """``calibration.images_digest`` of the images' files."""
    before: Quality
    """At temperature 1."""
    after: Quality
    """At ``temperature``."""
    runtime: str
    """``Runner.description`` of what computed the logits: kernels of another runtime round otherwise."""
    tools: dict[str, str]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def to_json(self) -> str:
        """The record as JSON."""
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"


def read_confidence(bundle: Path, contract: ModelContract) -> ConfidenceRecord | None:
    """The record of a bundle whose manifest holds ``contract``, or None where no temperature was fitted to it.

    Raises ArtifactError where it cannot be read, or is of another temperature than the contract's.
    """
    path = bundle / CONFIDENCE
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_RECORD_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror}); check its permissions") from exc
    try:
        if len(text) > MAX_RECORD_BYTES:
            raise ValueError("it is too large")
        raw: dict[str, Any] = json.loads(text)
        if (schema := raw.pop("schema")) != SCHEMA:
            raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
        record = ConfidenceRecord(before=_quality(raw.pop("before")), after=_quality(raw.pop("after")), **raw)
        _check(record)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise ArtifactError(
            f"{path}: is not a valid record ({exc}); fit it again: alexnet-deploy calibrate-confidence"
        ) from exc
    if record.temperature != contract.temperature:
        raise ArtifactError(
            f"{path}: fitted temperature {record.temperature:g}, the bundle's contract has "
            f"{contract.temperature:g}: one was edited; fit it again: alexnet-deploy calibrate-confidence"
        )
    return record


def _quality(raw: dict[str, Any]) -> Quality:
    return Quality(bins=tuple(Bin(**row) for row in raw.pop("bins")), **raw)


def _check(record: ConfidenceRecord) -> None:
    """ValueError, TypeError or OverflowError for a value that no fit gives."""
    "".join((record.images_digest, record.runtime, record.created, *record.tools.keys(), *record.tools.values()))
    counts: list[object] = [record.images, record.classes]
    numbers: list[object] = [record.temperature]
    for quality in (record.before, record.after):
        numbers += [quality.nll_nats, quality.ece_percent]
        for row in quality.bins:
            counts.append(row.images)
            numbers += [row.low, row.high]
            shares = (row.accuracy_percent, row.confidence_percent)
            numbers += shares if row.images else []
            if not row.images and shares != (None, None):
                raise ValueError("an empty bin has percentages")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("a count is no whole number")
    if not all(isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError("a number is negative or not finite")
