"""Latency and throughput of a runner, by the rules of TensorRT's trtexec.

Its conventions: a warm-up of 200 ms, then at least 3 s and 10 calls; the median is the mean of the middle two,
percentiles are nearest ranks over the raw samples, the deviation is that of the whole population; throughput is the
work done divided by the wall clock time. Its names: min, max, mean, median, percentile, throughput (qps).

Differences: a call is timed on the host, by a monotonic nanosecond clock, from pixels in host memory to logits in host
memory, which includes trtexec's H2D and D2H latency. One call per thread is in flight, where trtexec enqueues the next
one ahead. The run goes on until it is steady (``steady``). A percentile with too few samples is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import numpy as np

from alexnet_deploy.errors import require_positive
from alexnet_deploy.profiling.settings import DURATION_S, MIN_ITERATIONS, WARM_UP_S, check_timing
from alexnet_deploy.profiling.steady import run_until_steady
from alexnet_deploy.runtime.runner import Runner

QUANTILES = 101
"""0, 1, ..., 100 %: they show the same distribution as all samples, in a hundredth of the space."""
CONFIDENCE = 0.95
"""Confidence that the largest sample is not below the percentile; else it is None. See ``samples_for``."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The times of one runner, per call of ``batch`` images; None: too few samples."""

    description: str
    batch: int
    concurrency: int
    iterations: int
    elapsed_s: float
    min_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    max_ms: float
    stdev_ms: float
    throughput_qps: float
    """Calls per second, of all threads."""
    images_per_s: float
    steady: bool
    window_spread_percent: float
    windows: int
    samples_ns: tuple[int, ...] = field(repr=False)
    """The time of every call that counts, in the order in which they ended; after ``thinned`` their quantiles."""

    def quantiles_ns(self) -> tuple[int, ...]:
        """Nearest ranks of the samples at 0, 1, ..., 100 %."""
        ordered = sorted(self.samples_ns)
        return tuple(percentile(ordered, percent) for percent in range(QUANTILES))

    def thinned(self) -> Latency:
        """The same measurement with ``quantiles_ns`` in place of all samples; their quantiles stay the same."""
        return replace(self, samples_ns=self.quantiles_ns())


def measure(
    runner: Runner,
    *,
    batch: int = 1,
    duration_s: float = DURATION_S,
    warm_up_s: float = WARM_UP_S,
    iterations: int = MIN_ITERATIONS,
    concurrency: int = 1,
    between: Callable[[], object] = lambda: None,
) -> Latency:
    """Run ``runner`` on random pixels for at least ``duration_s`` seconds and ``iterations`` calls, until it is steady.

    With ``concurrency`` N, N threads call at the same time, each its own fork. ``between`` is called before the first
    window and after each. Raises UsageError for a number out of range, and the errors of the runner.
    """
    require_positive(batch=batch, iterations=iterations, concurrency=concurrency)
    check_timing(duration_s, warm_up_s)
    pixels_NHWC = random_pixels(runner, batch)
    with ExitStack() as forks:
        runners = [runner]
        for _ in range(concurrency - 1):
            runners.append(runner.fork())
            forks.callback(runners[-1].close)
        run = run_until_steady(
            [partial(each, pixels_NHWC) for each in runners],
            duration_s=duration_s,
            warm_up_s=warm_up_s,
            iterations=iterations,
            between=between,
        )
    ordered = sorted(run.samples_ns)
    elapsed_s = run.elapsed_ns / 1e9
    return Latency(
        description=runner.description,
        batch=batch,
        concurrency=concurrency,
        iterations=len(ordered),
        elapsed_s=elapsed_s,
        min_ms=ordered[0] / 1e6,
        mean_ms=float(np.mean(ordered)) / 1e6,
        median_ms=statistics.median(ordered) / 1e6,
        p90_ms=supported(ordered, 90),
        p95_ms=supported(ordered, 95),
        p99_ms=supported(ordered, 99),
        p99_9_ms=supported(ordered, 99.9),
        max_ms=ordered[-1] / 1e6,
        stdev_ms=float(np.std(ordered)) / 1e6,
        throughput_qps=len(ordered) / elapsed_s,
        images_per_s=batch * len(ordered) / elapsed_s,
        steady=run.steady,
        window_spread_percent=100 * run.spread,
        windows=run.windows,
        samples_ns=run.samples_ns,
    )


def random_pixels(runner: Runner, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 ``[batch, H, W, 3]`` of the runner's size, the same in every run."""
    pre = runner.contract.preprocessing
    return np.random.default_rng(0).integers(0, 256, (batch, pre.height, pre.width, 3), dtype=np.uint8)


def percentile(ordered: Sequence[int], percent: float) -> int:
    """Nearest rank: the smallest sample that at least ``percent`` of all samples do not exceed."""
    # Exact: in binary fractions, 99.9 % of 1000 is a little more than 999.
    rank = math.ceil(Fraction(str(percent)) / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def samples_for(percent: float) -> int:
    """Number of samples that a percentile needs: 29 for p90, 59 for p95, 299 for p99, 2995 for p99.9.

    With fewer, all of them lie below the true percentile in more than one run of twenty, and the nearest rank bounds
    nothing (Wilks 1941, doi:10.1214/aoms/1177731788).
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


def supported(ordered: Sequence[int], percent: float) -> float | None:
    """The percentile of samples in ns, in ms; None where ``samples_for`` needs more of them."""
    return percentile(ordered, percent) / 1e6 if len(ordered) >= samples_for(percent) else None
