"""Latency and throughput of a runner, by the rules of TensorRT's trtexec.

Its conventions: warm-up of 200 ms (``--warmUp``), then at least 3 s (``--duration``) and 10 calls (``--iterations``);
the median is the mean of the middle two, percentiles are nearest ranks over the raw samples, the deviation is that of
the whole population; throughput is what was done over the wall clock. Its names: min, max, mean, median, percentile,
throughput (qps). Differences: a call is timed on the host, by a monotonic nanosecond clock, from pixels in host memory
to logits in host memory, so what trtexec calls H2D and D2H latency is inside; one call is in flight a thread, where
trtexec enqueues the next one ahead; the run goes on until it is steady (``steady.py``); a percentile that the samples
do not support is not given.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import numpy as np

from alexnet_deploy.errors import UsageError
from alexnet_deploy.profiling.steady import run_until_steady
from alexnet_deploy.runtime.runner import Runner

WARM_UP_S = 0.2
DURATION_S = 3.0
MIN_ITERATIONS = 10
CONFIDENCE = 0.95
"""That the largest sample is not below the percentile: what a percentile needs to be given, see ``samples_for``."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What one engine took on one runner. Times are of one call of ``batch`` images; None: too few samples to say."""

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
    """Calls a second, of all threads."""
    images_per_s: float
    steady: bool
    window_spread_percent: float
    windows: int
    samples_ns: tuple[int, ...] = field(repr=False)
    """Every call that counts, in the order in which they ended."""


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

    With ``concurrency`` N, N threads call at the same time, each a fork of its own. ``between`` is called before the
    first window and after each. Raises UsageError for a number out of range, and whatever the runner raises.
    """
    check_numbers(
        batch=batch, duration_s=duration_s, warm_up_s=warm_up_s, iterations=iterations, concurrency=concurrency
    )
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


def check_numbers(*, batch: int, duration_s: float, warm_up_s: float, iterations: int, concurrency: int) -> None:
    """UsageError that names the flag of a number out of range."""
    for flag, value in (("--batch", batch), ("--iterations", iterations), ("--concurrency", concurrency)):
        if value < 1:
            raise UsageError(f"{flag} {value}: takes 1 or more")
    if not 0 < duration_s <= 3600:  # false for NaN
        raise UsageError(f"--duration {duration_s:g}: takes seconds above 0, an hour at most")
    if not 0 <= warm_up_s <= 3600:
        raise UsageError(f"--warmup {1000 * warm_up_s:g}: takes milliseconds from 0, an hour at most")


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
    """How many samples a percentile needs: 29 for p90, 59 for p95, 299 for p99, 2995 for p99.9.

    With fewer, all of them lie below the true percentile more often than in one run of twenty, and the nearest rank is
    no bound of anything (Wilks 1941, doi:10.1214/aoms/1177731788).
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


def supported(ordered: Sequence[int], percent: float) -> float | None:
    """The percentile of samples in ns, in ms; None where ``samples_for`` asks for more of them."""
    return percentile(ordered, percent) / 1e6 if len(ordered) >= samples_for(percent) else None
