"""What ``report.json`` holds: everything that ``report`` measured, to draw a page from, or to choose an engine by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from alexnet_deploy.evaluation.accuracy import Accuracy, Paired
from alexnet_deploy.evaluation.reliability import Bin
from alexnet_deploy.profiling.stages import StageReport

SCHEMA = 1
QUANTILES = 101
"""0, 1, ..., 100 %: an ECDF that looks like that of all samples, in a hundredth of the room."""

Part = Literal["accuracy", "latency", "stages", "layers", "calibration", "environment"]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured: numbers of two machines do not compare."""

    cpu: str
    cores: Count
    """That this process could use."""
    system: str
    python: str
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """The labelled images, without the place where they lie."""

    name: str
    naming: str
    images: Count
    unreadable: Natural
    images_digest: Sha256
    """``calibration.images_digest`` of the images that were read, in their order."""


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """One engine at one batch size, by trtexec's rules; times are of one call. None: too few samples to say."""

    batch: Count
    iterations: Count
    elapsed_s: Positive
    min_ms: Positive
    mean_ms: Positive
    median_ms: Positive
    p90_ms: Positive | None
    p95_ms: Positive | None
    p99_ms: Positive | None
    p99_9_ms: Positive | None
    max_ms: Positive
    stdev_ms: NonNegative
    images_per_s: Positive
    steady: bool
    invalid: tuple[str, ...]
    """Why the machine was not at rest; empty where nothing speaks against the numbers."""
    quantiles_ms: Annotated[tuple[Positive, ...], Field(min_length=QUANTILES, max_length=QUANTILES)]
    """Nearest ranks at 0, 1, ..., 100 %."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What one engine took, in a process of its own."""

    load_s: NonNegative
    """From the engine's files to one that can be called."""
    first_call_ms: NonNegative
    peak_rss_bytes: Count | None
    """The most memory the process held, of the host; None where the system does not tell."""
    threads: Count | None
    """Of the runtime; None: its own choice."""
    runs: Annotated[tuple[LatencyRun, ...], Field(min_length=1)]
    """A run a batch size."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of one engine, or a conversion (``overhead``), with what bounds it. None: there is nothing to tell."""

    name: str
    op: str
    overhead: bool
    fused: tuple[str, ...]
    """Other layers that are computed within."""
    precision: str
    ms: NonNegative
    share_percent: NonNegative
    """Of the whole call."""
    flops: Natural
    moved_bytes: Natural | None
    bound: Literal["compute", "bandwidth"] | None
    limit_ms: NonNegative | None
    """The shortest time in which this machine could do it, with every byte from memory."""


@dataclass(frozen=True, slots=True)
class Roof:
    """The most arithmetic that this machine was seen to do at one precision."""

    precision: str
    gflop_per_s: Positive


@dataclass(frozen=True, slots=True)
class Layers:
    """Time by layer; ``total_ms`` is of whole calls in the same run, ``remainder_ms`` what no layer accounts for."""

    runner: str
    """That told the times; where the latency's own cannot, another one."""
    batch: Count
    total_ms: Positive
    remainder_ms: float
    memory_gb_per_s: Positive | None
    """None: no roofline was measured."""
    roofs: tuple[Roof, ...]
    rows: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    """Why the times do not count; empty where nothing speaks against them."""


@dataclass(frozen=True, slots=True)
class Range:
    """A tensor's largest magnitude over the calibration images, and the one its scale was made for."""

    tensor: str
    largest: Positive
    threshold: Positive


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibrated a quantised bundle."""

    method: str
    images: Count
    images_digest: Sha256
    seed: int
    exclude: str | None
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """The fit that the bundle's temperature comes from, on images of its own."""

    images: Count
    ece_before_percent: NonNegative
    ece_after_percent: NonNegative


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One bundle, and all that was measured of it; a part that is None was left out, or is one of the gaps."""

    name: str
    precision: str
    created: str
    runner: str
    file: str
    """Of the bundle, that the runtime loads."""
    file_bytes: Count
    file_sha256: Sha256
    temperature: Positive
    tools: dict[str, str]
    notes: tuple[str, ...]
    accuracy: Accuracy
    reliability: tuple[Bin, ...]
    """At ``temperature``, on the images of the report; empty where an output is not finite."""
    beside_first: Paired | None
    """Beside the report's first engine, on the same images; None for that one itself."""
    calibration_images: Natural | None
    """How many of the images calibrated it; None where no record says."""
    temperature_images: Natural | None
    """How many of the images its temperature was fitted on; None where no record says."""
    timing: Timing | None = None
    stages: StageReport | None = None
    layers: Layers | None = None
    calibration: Calibration | None = None
    fit: TemperatureFit | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A part that could not be measured, and why; ``engine`` is None where it concerns all."""

    part: Part
    engine: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """One row of ``doctor``."""

    name: str
    state: str
    found: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """Content of ``report.json``. The first engine is the most precise one: the others are measured against it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    schema: Literal[1]
    created: str
    version: str
    """Of alexnet-deploy."""
    command: tuple[str, ...]
    """As it was given, so that it can be given again."""
    machine: Machine
    data: DataSet
    labels: tuple[str, ...]
    class_ids: tuple[str, ...]
    engines: Annotated[tuple[EngineReport, ...], Field(min_length=1)]
    photos: str | None
    """Name of the folder that the stages were timed on."""
    checks: tuple[Check, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def batches(self) -> tuple[int, ...]:
        """The batch sizes at which some engine was timed."""
        return tuple(sorted({run.batch for engine in self.engines for run in runs(engine)}))


def runs(engine: EngineReport) -> tuple[LatencyRun, ...]:
    """The engine's runs; none where it was not timed."""
    return () if engine.timing is None else engine.timing.runs


def run_at(engine: EngineReport, batch: int) -> LatencyRun | None:
    """The engine's run at one batch size."""
    return next((run for run in runs(engine) if run.batch == batch), None)
