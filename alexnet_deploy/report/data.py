"""The content of ``report.json``: all measurements, from which a page is drawn or an engine is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from msgspec import Meta

from alexnet_deploy.doctor import Check
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord
from alexnet_deploy.evaluation.results import AccuracyDelta, EngineResult, ReliabilityBin
from alexnet_deploy.precision.calibration.record import CalibrationRecord, Sha256
from alexnet_deploy.profiling.engine import BatchResult, EngineProfile
from alexnet_deploy.profiling.layer_profile import LayerProfile
from alexnet_deploy.profiling.stages import StageReport

Record = TypeVar("Record")
Part = Literal["accuracy", "latency", "stages", "layers", "calibration", "environment"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of the report: numbers of two machines cannot be compared."""

    cpu: str
    cores: Annotated[int, Meta(ge=1)]
    """Cores that the process could use."""
    system: str
    python: str
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images, without their folder."""

    count: Annotated[int, Meta(ge=1)]
    digest: Sha256
    """``images_digest`` of the images, in their order."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The labelled images."""

    name: str
    naming: str
    """Naming of the folders."""
    readable: ImageSet
    unreadable: Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class FromImages(Generic[Record]):
    """A result that depends on images; ``record`` is without its list of them."""

    images: ImageSet
    record: Record


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One bundle and all its measurements; a part that is None was left out, or is one of the gaps."""

    result: EngineResult
    created: str
    file: str
    """The file of the bundle that the runtime loads."""
    file_sha256: Sha256
    tools: dict[str, str]
    notes: tuple[str, ...]
    reliability: tuple[ReliabilityBin, ...]
    """At the temperature of the contract, on the images of the report; empty if an output is not finite."""
    delta: AccuracyDelta | None
    """Compared with the first engine of the report, on the same images; None for that one itself."""
    profile: EngineProfile | None = None
    """``Latency.thinned``: with quantiles in place of all samples."""
    stages: StageReport | None = None
    layers: LayerProfile | None = None
    calibration: FromImages[CalibrationRecord] | None = None
    """The calibration of a quantised bundle."""
    fit: FromImages[ConfidenceRecord] | None = None
    """The fit of the temperature."""

    @property
    def name(self) -> str:
        """Name of the bundle, unique in the report."""
        return self.result.name

    @property
    def rows(self) -> tuple[BatchResult, ...]:
        """The latency at each batch size; empty if it was not measured."""
        return () if self.profile is None else self.profile.rows

    @property
    def fastest(self) -> BatchResult | None:
        """The latency at the batch size that gives most images per second."""
        return max(self.rows, key=lambda row: row.latency.images_per_s, default=None)

    def row_at(self, batch: int) -> BatchResult | None:
        """The latency at one batch size."""
        return next((row for row in self.rows if row.latency.batch == batch), None)


@dataclass(frozen=True, slots=True)
class Gap:
    """A part that could not be measured, and the reason; ``engine`` is None if it concerns all engines."""

    part: Part
    engine: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Content of ``report.json``. The first engine is the most precise one; the others are compared with it."""

    created: str
    version: str
    """Version of alexnet-deploy."""
    command: tuple[str, ...]
    """The command that measured it, to repeat it; its absolute paths are made relative, as a report is passed on."""
    machine: Machine
    data: DataSet
    labels: tuple[str, ...]
    class_ids: tuple[str, ...]
    engines: Annotated[tuple[EngineReport, ...], Meta(min_length=1)]
    photos: str | None
    """Name of the folder whose images the stages were timed on."""
    checks: tuple[Check, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def batches(self) -> tuple[int, ...]:
        """The batch sizes at which some engine was timed."""
        return tuple(sorted({row.latency.batch for engine in self.engines for row in engine.rows}))
