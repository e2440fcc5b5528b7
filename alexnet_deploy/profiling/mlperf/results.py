"""The results in MLPerf's scenarios, and whether they count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import ProofError
from alexnet_deploy.profiling.mlperf.log import Summary
from alexnet_deploy.runtime.select import PassedOver


@dataclass(frozen=True, slots=True)
class ScenarioAccuracy:
    """From the accuracy log: share of images whose first answer is right."""

    images: int
    """Images that could be read; the others are left out."""
    right: int
    not_finite: int
    """Answers with a NaN or an infinity, which count as wrong."""

    @property
    def top1_percent(self) -> float:
        return 100 * self.right / self.images


@dataclass(frozen=True, slots=True)
class RateTrial:
    """One run of Server's search."""

    rate: float
    valid: bool
    p99_ms: float


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """One scenario: ``summary`` of a performance run, ``accuracy``, or ``unmet``."""

    scenario: str
    max_batch: int
    """Maximum number of images computed at once."""
    logs: Path | None
    """None: it was not run."""
    unreadable: tuple[str, ...]
    """The reason on one line, per image; in a performance run they run as black pixels."""
    summary: Summary | None = None
    accuracy: ScenarioAccuracy | None = None
    search: tuple[RateTrial, ...] = ()
    unmet: str | None = None
    """The reason that it was not run, as nothing could meet its bound."""
    disturbed: tuple[str, ...] = ()
    """Disturbances of its runs, from ``machine.watch``; LoadGen's verdict does not consider them."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons that it does not count; empty if it does."""
        if self.unmet is not None:
            return (self.unmet,)
        if self.summary is None or self.summary.valid:
            return ()
        lowest = min((known.rate for known in self.search), default=None)
        none = () if lowest is None else (f"no rate down to {lowest:.1f} queries/s meets the bound",)
        return none + self.summary.reasons


@dataclass(frozen=True, slots=True)
class OpenSystem:
    """The runtime of the engine, and the images in memory."""

    description: str
    passed_over: tuple[PassedOver, ...]
    unused_gpu: bool
    """Of ``open_runner``, as ``passed_over`` is."""
    images_at_once: int
    """Number of images in memory, ``memory_bytes`` in all."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MlperfReport:
    """All results of one engine."""

    system: OpenSystem
    loadgen: str
    """Its version."""
    images: int
    """Number of different images used; without data they are random pixels."""
    results: tuple[ScenarioResult, ...]


def require_valid(report: MlperfReport) -> None:
    """ProofError if a result does not count."""
    for result in report.results:
        if result.reasons:
            reasons = "; ".join(result.reasons)
            see = "" if result.logs is None else f"; see {result.logs}/"
            raise ProofError(f"{result.scenario}: the result is INVALID: {reasons}{see}")
