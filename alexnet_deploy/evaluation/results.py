"""The results of an evaluation: types alone, so reading them from a file needs no SciPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from alexnet_deploy.calibration import Score

NonNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The answers with a confidence in (``low``, ``high``], both within 0..1; percentages are None without images."""

    low: NonNegative
    high: NonNegative
    images: Annotated[int, Meta(ge=0)]
    accuracy_percent: NonNegative | None
    confidence_percent: NonNegative | None
    """Mean confidence of the bin's answers."""

    def __post_init__(self) -> None:
        if any((self.images == 0) != (share is None) for share in (self.accuracy_percent, self.confidence_percent)):
            raise ValueError("a bin has percentages without images, or images without percentages")


@dataclass(frozen=True, slots=True)
class Confidence:
    """How well the probabilities predict the share of right answers.

    ``nll_nats`` is the mean negative log likelihood of the true class; for a multi-label model it is the mean binary
    cross-entropy (``probabilities.loss_nats``). ``ece_percent`` is the expected calibration error of the
    first answers over 15 bins of equal width (Guo et al. 2017, On calibration of modern neural networks, section 2),
    which chance in the bins makes too large. ``ece_debiased_percent`` is without that part, and ``ece_interval`` its
    95 % interval (``calibration_error.debiased_error``); both are None in reports of earlier versions.
    """

    temperature: float
    nll_nats: float
    ece_percent: float
    ece_debiased_percent: float | None = None
    ece_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Selective:
    """How well the answers to trust can be told from the others by one score."""

    score: Score
    """That of the engine's rule; without a rule the probability of the answer."""
    threshold: float | None
    """That of the rule; None without one. The coverage is then 100 %."""
    coverage_percent: NonNegative
    """Share of the images whose answer is not marked as unknown."""
    accuracy_percent: NonNegative | None
    """Top-1 of these images; None if there are none."""
    accuracy_interval: Interval | None
    aurc_percent: NonNegative
    """Area under the risk-coverage curve: the mean risk over all coverages (``selective.aurc``)."""
    curve: tuple[tuple[float, float], ...]
    """(coverage, risk) in percent: the share of wrong answers among the images of the highest scores."""
    outliers: Annotated[int, Meta(ge=0)] | None = None
    """Number of images that show none of the classes; None where none were given."""
    auroc_percent: NonNegative | None = None
    """Chance that an image of the classes has a higher score than an outlier."""
    fpr95_percent: NonNegative | None = None
    """Share of the outliers that pass the threshold that 95 % of the images pass."""
    outliers_unknown_percent: NonNegative | None = None
    """Share of the outliers that the rule marks; None without a rule."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of images whose class is the first, or among the first five answers; equal logits rank by class number."""

    images: int
    top1_percent: float
    top1_interval: Interval
    top5_percent: float
    top5_interval: Interval
    not_finite: int
    """Images with a NaN or infinite logit; they count as wrong."""
    confidence: Confidence | None
    """As the contract calibrates them; None if a logit is not finite."""
    uncalibrated: Confidence | None
    """Of the bare logits."""
    selective: Selective | None = None
    """None if a logit is not finite, for a multi-label model, and in reports of earlier versions."""


@dataclass(frozen=True, slots=True)
class ClassDelta:
    """Top-1 of one class in both engines."""

    target: int
    images: int
    first_percent: float
    second_percent: float

    @property
    def points(self) -> float:
        """Second minus first: negative where the second engine is right less often."""
        return self.second_percent - self.first_percent


@dataclass(frozen=True, slots=True)
class AccuracyDelta:
    """How the answers of a second engine differ from those of a first one on the same images."""

    images: int
    agreement_percent: float
    """Share of images with the same first answer, right or wrong."""
    lost: int
    """Images that are right in the first engine, wrong in the second."""
    won: int
    """Images that are wrong in the first engine, right in the second."""
    points: float
    """Top-1 of the second minus top-1 of the first."""
    points_interval: Interval
    mcnemar_p: float
    classes: tuple[ClassDelta, ...]
    """The classes that have images, the one that lost most points first."""


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The results of one engine."""

    name: str
    """Unique among the results."""
    precision: str
    runner: str
    """Runtime, version, device."""
    model_bytes: int
    """Size of the file that the runtime loads."""
    temperature: float
    """As in its contract."""
    accuracy: Accuracy
    latency_ms: float | None
    """Median of calls with one image; None if it was not measured."""
    calibration_images: int | None
    """Number of these images that calibrated it; None without a record."""
    temperature_images: int | None
    """Number of these images that its temperature was fitted on; None without a record."""
