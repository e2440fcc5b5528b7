"""How long the stages of a pipeline take in all its threads, without a gap between them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict


class StageTimer:
    """Adds up the stages of all threads, from the moment it is made.

    A thread calls ``end`` when a stage has ended; the time since its last call belongs to that stage. So after
    ``stop`` the stages add up to ``threads`` x ``total_s``.
    """

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        self._threads: dict[int, _Thread] = {}
        self.total_s = 0.0

    def end(self, stage: str) -> None:
        """Give the time since this thread's last call, or since the start, to ``stage``."""
        key = threading.get_ident()
        mine = self._threads.get(key)
        if mine is None:
            mine = self._threads[key] = _Thread(self._started_ns)
        mine.end(stage, time.perf_counter_ns())

    def stop(self, rest: str) -> None:
        """End the measurement: what is left of each thread's time is ``rest``."""
        now_ns = time.perf_counter_ns()
        self.total_s = (now_ns - self._started_ns) / 1e9
        for thread in self._threads.values():
            thread.end(rest, now_ns)

    @property
    def threads(self) -> int:
        """How many threads ended a stage."""
        return len(self._threads)

    def seconds(self) -> dict[str, float]:
        """Time by stage, over all threads."""
        total_ns: dict[str, int] = defaultdict(int)
        for thread in self._threads.values():
            for stage, ns in thread.stages_ns.items():
                total_ns[stage] += ns
        return {stage: ns / 1e9 for stage, ns in total_ns.items()}


class _Thread:
    def __init__(self, started_ns: int) -> None:
        self._last_ns = started_ns
        self.stages_ns: dict[str, int] = defaultdict(int)

    def end(self, stage: str, now_ns: int) -> None:
        self.stages_ns[stage] += max(now_ns - self._last_ns, 0)
        self._last_ns = now_ns
