"""How to measure in MLPerf's scenarios; apart from the measuring, which loads LoadGen."""

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
"""Server's bound for ResNet-50 in MLPerf's rules; AlexNet is no benchmark of theirs and has none."""
LARGEST_BATCH = 32
"""The largest one tried: past it a CPU gains nothing, and a queue that long means a latency that no bound allows."""


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
    """Most images per call; None: as many as give the highest throughput, up to ``LARGEST_BATCH``."""
    latency_bound_ms: float = LATENCY_BOUND_MS
    min_duration_s: float = 10.0
    seed: int = 0
    """Of LoadGen's choices and of random pixels."""

    def __post_init__(self) -> None:
        require_positive(concurrency=self.concurrency, max_batch=self.max_batch)
        if not 0 < self.min_duration_s <= 24 * 3600:  # false for NaN
            raise UsageError(f"`min_duration_s` {self.min_duration_s:g}: takes seconds above 0, a day at most")
        if not 0 < self.latency_bound_ms <= 1e6:
            raise UsageError(f"`latency_bound_ms` {self.latency_bound_ms:g}: takes milliseconds above 0, such as 15")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"`seed` {self.seed}: takes a whole number of 32 bits")
        if self.accuracy and self.data is None:
            raise UsageError("`accuracy` needs `data`, a folder with one folder of images per class")
