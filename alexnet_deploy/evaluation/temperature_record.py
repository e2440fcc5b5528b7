"""``confidence.json``: the fit that the temperature of a bundle comes from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.evaluation.results import NonNegative, ReliabilityBin
from alexnet_deploy.images.choose import images_digest
from alexnet_deploy.json_format import JsonFormat

FORMAT = JsonFormat("confidence record", 1, "fit the temperature again: alexnet-deploy calibrate-confidence")
"""About 70 bytes per image and 10 KiB in all; 64 MiB hold far more than ImageNet's validation images."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well probabilities fit the true classes, on the images of the fit; units as in ``accuracy.Confidence``."""

    nll_nats: NonNegative
    ece_percent: NonNegative
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class ConfidenceRecord:
    """One fit of a temperature, and its effect on the images that it was fitted on."""

    temperature: Annotated[float, Meta(gt=0)]
    classes: Annotated[int, Meta(ge=0)]
    """Number of the model's classes that have images."""
    sha256: tuple[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")], ...]
    """SHA-256 of the image files, in the order in which they ran."""
    before: Quality
    """At temperature 1."""
    after: Quality
    """At ``temperature``."""
    runtime: str
    """``Runner.description`` of the runner of the fit; another runtime rounds differently."""
    tools: dict[str, str]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def images(self) -> int:
        """Number of images that it was fitted on."""
        return len(self.sha256)

    @property
    def image_hashes(self) -> frozenset[str]:
        """SHA-256 of the images: in an evaluation on any of them its probabilities fit too well."""
        return frozenset(self.sha256)

    def digest(self) -> str:
        """``images_digest`` of the images."""
        return images_digest(self.sha256)

    def summary(self) -> dict[str, Any]:
        """All fields, with the number and the digest of the images instead of their list."""
        raw = dataclasses.asdict(self)
        del raw["sha256"]
        return {"images": self.images, "images_digest": self.digest()} | raw

    def to_json(self) -> str:
        """The record as JSON, with the digest of the images in their order."""
        raw = {"schema": FORMAT.schema} | self.summary() | {"sha256": self.sha256}
        return json.dumps(raw, indent=1, allow_nan=False) + "\n"


def read_confidence(bundle: Path, contract: ModelContract) -> ConfidenceRecord | None:
    """Read the record of a bundle whose manifest holds ``contract``; None if no temperature was fitted to it.

    Raises ArtifactError if it is not valid, or its temperature is not that of the contract.
    """
    path = bundle / CONFIDENCE
    computed = {"images": lambda record: record.images, "images_digest": ConfidenceRecord.digest}
    try:
        record = FORMAT.read(path, ConfidenceRecord, computed=computed)
    except FileNotFoundError:
        return None
    if record.temperature != contract.temperature:
        raise ArtifactError(
            f"{path}: fitted temperature {record.temperature:g}, the bundle's contract has {contract.temperature:g}: "
            f"one of the two was edited; {FORMAT.remedy}"
        )
    return record
