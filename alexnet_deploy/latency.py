"""Latency and throughput of a runner, by trtexec's rules.

Warm-up 200 ms, then at least 3 s and 10 iterations, monotonic nanosecond clock, percentiles by nearest rank over
the raw samples. One call is measured from pixels in host memory to logits in host memory.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.errors import UsageError
from alexnet_deploy.runners import Runner

WARM_UP_S = 0.2
MIN_ITERATIONS = 10


@dataclass(frozen=True, slots=True)
class Latency:
    """What one engine took on one runner. Times are of one call of ``batch`` images."""

    description: str
    batch: int
    iterations: int
    min_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    images_per_s: float


def measure(runner: Runner, *, batch: int = 1, duration_s: float = 3.0) -> Latency:
    """Run ``runner`` on random pixels for ``duration_s`` seconds and at least ``MIN_ITERATIONS`` calls."""
    if batch < 1:
        raise UsageError(f"--batch {batch}: takes 1 or more")
    if not 0 < duration_s <= 3600:
        raise UsageError(f"--duration {duration_s}: takes seconds above 0, an hour at most")
    pre = runner.contract.preprocessing
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (batch, pre.height, pre.width, 3), dtype=np.uint8)
    warm_until = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < warm_until:
        runner(pixels_NHWC)
    samples_ns: list[int] = []
    started = time.perf_counter_ns()
    while len(samples_ns) < MIN_ITERATIONS or time.perf_counter_ns() - started < duration_s * 1e9:
        before = time.perf_counter_ns()
        runner(pixels_NHWC)
        samples_ns.append(time.perf_counter_ns() - before)
    elapsed_s = (time.perf_counter_ns() - started) / 1e9
    ordered = sorted(samples_ns)
    return Latency(
        description=runner.description,
        batch=batch,
        iterations=len(ordered),
        min_ms=ordered[0] / 1e6,
        mean_ms=sum(ordered) / len(ordered) / 1e6,
        median_ms=percentile(ordered, 50) / 1e6,
        p90_ms=percentile(ordered, 90) / 1e6,
        p95_ms=percentile(ordered, 95) / 1e6,
        p99_ms=percentile(ordered, 99) / 1e6,
        max_ms=ordered[-1] / 1e6,
        images_per_s=batch * len(ordered) / elapsed_s,
    )


def percentile(ordered: list[int], percent: float) -> int:
    """Nearest rank: the smallest sample that at least ``percent`` of all samples do not exceed."""
    return ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]
