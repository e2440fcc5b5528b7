"""Batches of any size for runners whose engine accepts only some: the one place that splits and pads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.stage_timer import Lap

# Legend: N batch, H height, W width, C channel (RGB), K class


class AnyBatch:
    """A Runner of any N >= 1: splits what exceeds the engine's ``max``, repeats the last image up to its ``min``."""

    batch: BatchProfile | None = None

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.contract = runner.contract
        self.description = runner.description

    @property
    def lap(self) -> Lap:
        """That of the runner inside."""
        return self._runner.lap

    @lap.setter
    def lap(self, lap: Lap) -> None:
        self._runner.lap = lap

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""
        profile = self._runner.batch
        if profile is None or profile.min <= len(pixels_NHWC) <= profile.max:
            return self._runner(pixels_NHWC)
        starts = range(0, len(pixels_NHWC), profile.max)
        return np.concatenate([self._padded(pixels_NHWC[i : i + profile.max], profile.min) for i in starts])

    def _padded(self, pixels_NHWC: NDArray[np.uint8], least: int) -> NDArray[np.float32]:
        count = len(pixels_NHWC)
        if count < least:
            pixels_NHWC = np.concatenate([pixels_NHWC, np.repeat(pixels_NHWC[-1:], least - count, axis=0)])
        return self._runner(pixels_NHWC)[:count]

    def fork(self) -> AnyBatch:
        """Another request of the same engine, of any batch size, too."""
        return AnyBatch(self._runner.fork())

    def close(self) -> None:
        """Close the runner inside; calling it twice is fine."""
        self._runner.close()
