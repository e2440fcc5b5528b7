"""Runners of one engine that compute at the same time: on several GPUs, or several on one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UsageError
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB), K class

Call = Callable[[Runner, NDArray[np.uint8]], NDArray[np.float32]]
"""From pixels ``[N, H, W, 3]`` to logits ``[N, K]`` with a runner."""
_CLOSED = "the engine is closed; open it again with open_engine"


def call_once(runner: Runner, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``Call`` for pixels of the contract."""
    return runner(pixels_NHWC)


class SideBySide:
    """Each of ``runners`` in a thread of its own, which alone calls it: whichever is free takes the next batch."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        """``runners`` must stay open until it is closed."""
        self.contract = runners[0].contract
        self.runners = tuple(runners)
        self._waiting: SimpleQueue[Runner] = SimpleQueue()
        for runner in runners:
            self._waiting.put(runner)
        self._mine = threading.local()
        self._threads = ThreadPoolExecutor(len(runners), "compute", initializer=self._take_one)

    def _take_one(self) -> None:
        # Not any that is free at the time of a call: CUDA graphs of ONNX Runtime belong to the thread that made them.
        self._mine.runner = self._waiting.get_nowait()

    def submit(self, pixels_NHWC: NDArray[np.uint8], call: Call = call_once) -> Future[NDArray[np.float32]]:
        """The logits ``[N, K]`` to come, as ``call`` gets them from a runner; the pixels must not change until then."""
        try:
            return self._threads.submit(self._run, pixels_NHWC, call)
        except RuntimeError as exc:
            raise UsageError(_CLOSED) from exc

    @staticmethod
    def result(future: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Wait for the logits ``[N, K]`` of a ``submit``; raises the error of the runner."""
        try:
            return future.result()
        except CancelledError as exc:
            raise UsageError(_CLOSED) from exc

    def _run(self, pixels_NHWC: NDArray[np.uint8], call: Call) -> NDArray[np.float32]:
        return call(self._mine.runner, pixels_NHWC)

    def close(self) -> None:
        """Wait for the calls that run, and drop those that wait; may be called twice."""
        self._threads.shutdown(cancel_futures=True)
