"""What was measured in MLPerf's scenarios, and whether it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import ProofError
from alexnet_deploy.profiling.mlperf.log import Summary


@dataclass(frozen=True, slots=True)
class Accuracy:
    """From the accuracy log: share of images whose class is the first answer."""

    images: int
    """That could be read; the others are left out."""
    right: int
    not_finite: int
    """Answers with a NaN or an infinity, which count as wrong."""

    @property
    def top1_percent(self) -> float:
        return 100 * self.right / self.images


@dataclass(frozen=True, slots=True)
class Try:
    """One run of Server's search."""

    rate: float
    valid: bool
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario: ``summary`` of a performance run, or ``accuracy``."""

    scenario: str
    max_batch: int
    """Images that were computed at once, at most."""
    logs: Path
    unreadable: tuple[str, ...]
    """The one line that says why, an image; in a performance run they run as black pixels."""
    summary: Summary | None = None
    accuracy: Accuracy | None = None
    search: tuple[Try, ...] = ()
    disturbed: tuple[str, ...] = ()
    """What else took part in its runs, as ``machine_watch`` saw it; the verdict is LoadGen's, which does not know."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not count; empty where it does."""
        if self.summary is None or self.summary.valid:
            return ()
        lowest = min((known.rate for known in self.search), default=None)
        none = () if lowest is None else (f"no rate down to {lowest:.1f} queries/s meets the bound",)
        return none + self.summary.reasons


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured of one engine."""

    description: str
    passed_over: tuple[str, ...]
    loadgen: str
    """Its version."""
    images: int
    """Different ones that were used; without data they are random pixels."""
    memory_bytes: int
    """Of the images that are in memory at once."""
    results: tuple[Result, ...]


def refuse_invalid(report: Report) -> None:
    """ProofError where a result does not count."""
    for result in report.results:
        if result.reasons:
            reasons = "; ".join(result.reasons)
            raise ProofError(f"{result.scenario}: LoadGen says INVALID: {reasons}; see {result.logs}/")
