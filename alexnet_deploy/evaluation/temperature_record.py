"""``confidence.json``: the fit that a bundle's temperature comes from."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.evaluation.reliability import Bin
from alexnet_deploy.images.choose import images_digest

SCHEMA = 1
MAX_RECORD_BYTES = 64 << 20
"""Some 70 bytes an image beside 10 KiB: room for all of ImageNet's validation images, and more."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    classes: int
    """How many of the model's classes have images."""
    sha256: tuple[str, ...]
    """Of each image's file, in the order in which they ran."""
    before: Quality
    """At temperature 1."""
    after: Quality
    """At ``temperature``."""
    runtime: str
    """``Runner.description`` of what computed the logits: kernels of another runtime round otherwise."""
    tools: dict[str, str]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def images(self) -> int:
        """How many images it was fitted on."""
        return len(self.sha256)

    @property
    def image_hashes(self) -> frozenset[str]:
        """SHA-256 of the images: an evaluation on any of them would praise its probabilities."""
        return frozenset(self.sha256)

    def summary(self) -> dict[str, Any]:
        """All fields, but of the images only their number and ``calibration.images_digest``."""
        raw = dataclasses.asdict(self)
        del raw["sha256"]
        return {"images": self.images, "images_digest": images_digest(self.sha256)} | raw

    def to_json(self) -> str:
        """The record as JSON, with the digest of the images in their order."""
        raw = {"schema": SCHEMA} | self.summary() | {"sha256": self.sha256}
        return json.dumps(raw, indent=1, allow_nan=False) + "\n"


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
        count, digest = raw.pop("images"), raw.pop("images_digest")
        record = ConfidenceRecord(
            before=_quality(raw.pop("before")),
            after=_quality(raw.pop("after")),
            sha256=tuple(raw.pop("sha256")),
            **raw,
        )
        _check(record)
        if count != record.images or digest != images_digest(record.sha256):
            raise ValueError("its list of images is not the one that its digest is of")
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
    "".join((record.runtime, record.created, *record.tools.keys(), *record.tools.values()))
    if not all(map(_SHA256.fullmatch, record.sha256)):
        raise ValueError("a hash of an image is no SHA-256")
    counts: list[object] = [record.classes]
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
