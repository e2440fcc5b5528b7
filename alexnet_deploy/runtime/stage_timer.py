"""Stage times: a thread says which stage it has just ended, and the time since it said so last belongs to that."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

Lap = Callable[[str], None]
"""Called with the name of a stage by the thread that has just ended it."""


def no_lap(stage: str) -> None:
    """Measure nothing."""


class Laps:
    """Adds up the laps of all threads, from the moment it is made.

    Each thread's laps follow on one another without a gap, so after ``stop`` the stages add up to (threads that
    called) x ``total_s``.
    """

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        self._threads: dict[int, _Thread] = {}
        self.total_s = 0.0

    def __call__(self, stage: str) -> None:
        """Give the time since this thread's last lap, or since the start, to ``stage``."""
        key = threading.get_ident()
        mine = self._threads.get(key)
        if mine is None:
            mine = self._threads[key] = _Thread(self._started_ns)
        mine.lap(stage)

    def stop(self, rest: str) -> None:
        """End the measurement: what is left of each thread's time is ``rest``."""
        now_ns = time.perf_counter_ns()
        self.total_s = (now_ns - self._started_ns) / 1e9
        for thread in self._threads.values():
            thread.lap(rest, now_ns)

    @property
    def threads(self) -> int:
        """How many called."""
        return len(self._threads)

    def seconds(self) -> dict[str, float]:
        """By stage, over all threads."""
        total_ns: dict[str, int] = defaultdict(int)
        for thread in self._threads.values():
            for stage, ns in thread.stages_ns.items():
                total_ns[stage] += ns
        return {stage: ns / 1e9 for stage, ns in total_ns.items()}


class _Thread:
    def __init__(self, started_ns: int) -> None:
        self._last_ns = started_ns
        self.stages_ns: dict[str, int] = defaultdict(int)

    def lap(self, stage: str, now_ns: int | None = None) -> None:
        now_ns = now_ns or time.perf_counter_ns()
        self.stages_ns[stage] += max(now_ns - self._last_ns, 0)
        self._last_ns = now_ns
