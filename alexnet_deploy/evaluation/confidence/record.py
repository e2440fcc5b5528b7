"""``confidence.json``: the fit that the calibration of a bundle and its rule for unknown answers come from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.calibration import Calibration, Rejection, Score
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.evaluation.results import Interval, NonNegative, ReliabilityBin
from alexnet_deploy.images.choose import images_digest
from alexnet_deploy.json_format import JsonFormat

ADDED_FIELDS = frozenset(("method", "outlier_sha256"))
"""Fields of a record that files of earlier versions lack."""
FORMAT = JsonFormat(
    "confidence record", 1, "fit the calibration again: alexnet-deploy calibrate-confidence", added=ADDED_FIELDS
)
"""About 70 bytes per image and 10 KiB in all; 64 MiB hold far more than ImageNet's validation images."""
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well probabilities fit the true classes, on the images of the fit; units as in ``results.Confidence``."""

    nll_nats: NonNegative
    ece_percent: NonNegative
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method, judged by cross-validation."""

    method: str
    keeps_ranking: bool
    """Whether no answer changes; only such a method is stored."""
    nll_nats: float
    ece_percent: float | None
    """``calibration_error.debiased_error``; None for a method that changes answers."""
    ece_interval: Interval | None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """How well one score tells right answers from wrong ones and, where there are any, images from outliers."""

    score: Score
    aurc_percent: float
    """Area under the risk-coverage curve of the images; outliers count as wrong answers where there are any."""
    auroc_percent: float | None = None
    fpr95_percent: float | None = None


@dataclass(frozen=True, slots=True)
class RejectionFit:
    """How the rule for unknown answers was found, on the images of the fit."""

    score: Score
    threshold: float
    why: str
    """Why this score, for people."""
    scores: tuple[ScoreRow, ...]
    coverage: Share
    """Share of the images that are answered."""
    risk: Share
    """Share of wrong answers among them."""
    max_risk: Share | None
    """The bound that was asked for; None where a coverage was."""
    risk_bound: Share
    """Upper bound of the risk on other images like these, with a confidence of 95 %."""
    outliers: Annotated[int, Meta(ge=0)] | None = None
    """Number of outliers; None without any."""
    outliers_answered: Share | None = None
    """Share of them that the rule does not mark as unknown."""

    @property
    def rule(self) -> Rejection:
        """As the contract has it."""
        return Rejection(self.score, self.threshold)


@dataclass(frozen=True, slots=True)
class ConfidenceRecord:
    """One fit, and its effect on the images that it was fitted on."""

    temperature: Annotated[float, Meta(gt=0)]
    classes: Annotated[int, Meta(ge=0)]
    """Number of the model's classes that have images."""
    sha256: tuple[Sha256, ...]
    """SHA-256 of the image files, in the order in which they ran."""
    before: Quality
    """Uncalibrated."""
    after: Quality
    """Calibrated."""
    runtime: str
    """``Runner.description`` of the runner of the fit; another runtime rounds differently."""
    tools: dict[str, str]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    method: str = "temperature"
    calibration: Calibration | None = None
    """What follows the temperature."""
    methods: tuple[MethodRow, ...] = ()
    """All methods that were compared."""
    rejection: RejectionFit | None = None
    outlier_sha256: tuple[Sha256, ...] = ()
    """SHA-256 of the outliers, which chose the score of the rule."""

    @property
    def images(self) -> int:
        """Number of images that it was fitted on."""
        return len(self.sha256)

    @property
    def cross_validated(self) -> MethodRow | None:
        """The quality of the chosen method on images that its fit had not seen; None in records that lack it."""
        return next((row for row in self.methods if row.method == self.method), None)

    @property
    def image_hashes(self) -> frozenset[str]:
        """SHA-256 of the images: in an evaluation on any of them its probabilities fit too well."""
        return frozenset(self.sha256)

    def digest(self) -> str:
        """``images_digest`` of the images."""
        return images_digest(self.sha256)

    def applied_to(self, contract: ModelContract) -> ModelContract:
        """``contract`` with this fit in it."""
        rule = None if self.rejection is None else self.rejection.rule
        return dataclasses.replace(contract, temperature=self.temperature, calibration=self.calibration, rejection=rule)

    def summary(self) -> dict[str, Any]:
        """All fields, with the number and the digest of the images instead of their list, and without the outliers."""
        raw = dataclasses.asdict(self)
        del raw["sha256"], raw["outlier_sha256"]
        return {"images": self.images, "images_digest": self.digest()} | raw

    def to_json(self) -> str:
        """The record as JSON, with the digest of the images in their order."""
        hashes = {"sha256": self.sha256, "outlier_sha256": self.outlier_sha256}
        raw = {"schema": FORMAT.schema} | self.summary() | hashes
        return json.dumps(raw, indent=1, allow_nan=False) + "\n"


def read_confidence(bundle: Path, contract: ModelContract) -> ConfidenceRecord | None:
    """Read the record of a bundle whose manifest holds ``contract``; None if nothing was fitted to it.

    Raises ArtifactError if it is not valid, or its fit is not that of the contract.
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
    if record.applied_to(contract) != contract:
        raise ArtifactError(
            f"{path}: its calibration or its rule for unknown answers is not that of the bundle's contract: one of the "
            f"two was edited; {FORMAT.remedy}"
        )
    return record
