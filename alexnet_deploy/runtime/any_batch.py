"""Batches of any size for runners whose engine accepts only some: the one place that splits and pads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.runtime.runner import Runner, Steps

# Legend: N batch, H height, W width, C channel (RGB), K class


class AnyBatch:
    """A Runner of any N >= 1: splits what exceeds the engine's ``max``, repeats the last image up to its ``min``."""

    batch: BatchProfile | None = None

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.contract = runner.contract
        self.runtime = runner.runtime
        self.device = runner.device
        self.description = runner.description

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""
        return _joined([self._runner(part_NHWC)[:count] for part_NHWC, count in self._parts(pixels_NHWC)])

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The steps of each call that it takes, one after the other."""
        logits = []
        for part_NHWC, count in self._parts(pixels_NHWC):
            part_NK = yield from self._runner.steps(part_NHWC)
            logits.append(part_NK[:count])
        return _joined(logits)

    def _parts(self, pixels_NHWC: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Pixels that the engine accepts, and how many of them were asked for."""
        profile = self._runner.batch or BatchProfile(1, 1, max(len(pixels_NHWC), 1))
        for start in range(0, max(len(pixels_NHWC), 1), profile.max):
            part_NHWC = pixels_NHWC[start : start + profile.max]
            count = len(part_NHWC)
            if 0 < count < profile.min:
                part_NHWC = np.concatenate([part_NHWC, np.repeat(part_NHWC[-1:], profile.min - count, axis=0)])
            yield part_NHWC, count

    def fork(self) -> AnyBatch:
        """Another request of the same engine, of any batch size."""
        return AnyBatch(self._runner.fork())

    def close(self) -> None:
        """Close the runner inside; calling it twice is fine."""
        self._runner.close()


def _joined(logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return logits[0] if len(logits) == 1 else np.concatenate(logits)
