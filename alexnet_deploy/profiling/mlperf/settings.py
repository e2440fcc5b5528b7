"""Settings of MLPerf's scenarios. They are apart from the measurement, which loads LoadGen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from alexnet_deploy.errors import UsageError, require_positive

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

SUBMISSION_S = 600.0
"""The least duration of a performance run in a submission, by MLPerf's rules and its mlperf.conf."""
LATENCY_BOUND_MS = 15.0
"""Server's bound for ResNet-50 in MLPerf's rules; AlexNet is not one of its benchmarks and has no bound."""
LARGEST_BATCH = 32
"""The largest one tried: beyond it a CPU gains nothing, and so long a queue exceeds any latency bound."""


@dataclass(frozen=True, slots=True)
class MlperfSettings:
    """Settings of ``run_scenarios``; UsageError names a parameter out of range."""

    data: Path | None = None
    """Folder of images; None: random pixels."""
    accuracy: bool = False
    """LoadGen's accuracy mode: each image once, ``data`` with one folder per class."""
    runtime: str = "auto"
    threads: int | None = None
    concurrency: int = 1
    """Calls at the same time."""
    max_batch: int | None = None
    """Maximum batch size per call; None: the one with the highest throughput, up to ``LARGEST_BATCH``."""
    latency_bound_ms: float = LATENCY_BOUND_MS
    min_duration_s: float = 10.0
    seed: int = 0
    """Seed of LoadGen's choices and of random pixels."""

    def __post_init__(self) -> None:
        require_positive(concurrency=self.concurrency, max_batch=self.max_batch)
        if not 0 < self.min_duration_s <= 24 * 3600:  # false for NaN
            raise UsageError(f"`min_duration_s` {self.min_duration_s:g}s: must be above 0s and at most 86400s")
        if not 0 < self.latency_bound_ms <= 1e6:
            raise UsageError(f"`latency_bound_ms` {self.latency_bound_ms:g}ms: must be above 0ms, such as 15ms")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"`seed` {self.seed}: must be within 0..{2**32 - 1}")
        if self.accuracy and self.data is None:
            raise UsageError("`accuracy` needs `data`, a folder with one subfolder of images per class")
