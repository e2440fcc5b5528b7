"""Repeat calls until they take the same time.

A run is cut into windows of a third of the requested duration. It has settled when the medians of its last
``WINDOWS`` windows lie within ``MAX_SPREAD`` of one another; until then it goes on, to ``MAX_WINDOWS`` at most. The
windows before those that agree are a longer warm-up and are dropped. If none agree, every window counts and the run is
not steady. (The rule of Triton's perf_analyzer, with medians instead of means: one late call is no drift.)
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

WINDOWS = 3
"""Fewer cannot tell a drift from an outlier; more would make each too short for an engine of some 100 ms per call."""
MAX_SPREAD = 0.05
"""One run cannot tell engines apart that are closer than this; a warm, idle machine stays within 1 to 2 %."""
MAX_WINDOWS = 3 * WINDOWS
"""A run that did not settle in three durations seldom does in a fourth."""


@dataclass(frozen=True, slots=True)
class Run:
    """The calls that count."""

    samples_ns: tuple[int, ...]
    """Time of each call, of all threads, in the order in which they ended."""
    elapsed_ns: int
    windows: int
    """Number of windows kept: ``WINDOWS``, or all if none agreed."""
    spread: float
    """(largest - smallest) / smallest of the medians of the last ``WINDOWS`` windows."""
    steady: bool


def run_until_steady(
    calls: Sequence[Callable[[], object]],
    *,
    duration_s: float,
    warm_up_s: float,
    iterations: int,
    between: Callable[[], object] = lambda: None,
) -> Run:
    """Repeat each of ``calls`` at the same time: the first in this thread, each other one in its own thread.

    At least ``iterations`` calls within at least ``duration_s`` seconds count, after a warm-up of one call each and
    ``warm_up_s``. ``between`` runs before the first window and after each, outside all measured times. An error of a
    call is raised here, when the other threads have ended.
    """
    here, *elsewhere = calls
    samples_ns: list[int] = []  # append is atomic, so all threads share it
    stop = threading.Event()
    windows: list[tuple[list[int], int]] = []
    medians: list[float] = []
    with ThreadPoolExecutor(max(len(elsewhere), 1)) as pool:
        first = [pool.submit(call) for call in elsewhere]
        here()
        for done in first:
            done.result()
        others = [pool.submit(_repeat, call, samples_ns, stop) for call in elsewhere]
        try:
            _window(here, samples_ns, stop, warm_up_s, 1)
            between()
            while not stop.is_set() and len(windows) < MAX_WINDOWS and not _settled(medians):
                windows.append(_window(here, samples_ns, stop, duration_s / WINDOWS, -(-iterations // WINDOWS)))
                medians.append(statistics.median(windows[-1][0] or [0]))
                between()
        finally:
            stop.set()
        for ended in others:
            ended.result()
    steady = _settled(medians)
    kept = windows[-WINDOWS:] if steady else windows
    return Run(
        samples_ns=tuple(sample for samples, _ in kept for sample in samples),
        elapsed_ns=sum(elapsed for _, elapsed in kept),
        windows=len(kept),
        spread=spread(medians),
        steady=steady,
    )


def spread(medians: Sequence[float]) -> float:
    """(largest - smallest) / smallest of the last ``WINDOWS``."""
    last = medians[-WINDOWS:]
    return (max(last) - min(last)) / max(min(last), 1)


def _settled(medians: Sequence[float]) -> bool:
    return len(medians) >= WINDOWS and spread(medians) <= MAX_SPREAD


def _window(
    call: Callable[[], object], samples_ns: list[int], stop: threading.Event, seconds: float, least: int
) -> tuple[list[int], int]:
    """Call until ``seconds`` are over and ``least`` calls of all threads have ended: their times and the total."""
    first, enough_ns = len(samples_ns), seconds * 1e9
    started = now = time.perf_counter_ns()
    while not stop.is_set():
        before = time.perf_counter_ns()
        call()
        now = time.perf_counter_ns()
        samples_ns.append(now - before)
        if now - started >= enough_ns and len(samples_ns) - first >= least:
            break
    return samples_ns[first:], now - started


def _repeat(call: Callable[[], object], samples_ns: list[int], stop: threading.Event) -> None:
    try:
        _window(call, samples_ns, stop, math.inf, 0)
    finally:
        stop.set()  # a failed thread ends all of them
