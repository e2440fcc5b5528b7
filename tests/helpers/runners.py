"""Runners without a runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.runtime.runner import Steps, compute_step

LOGIT = np.float32(10)


def numbered_contract(classes: int, side: int = 8, **more: Any) -> ModelContract:
    """Labels ``"0"`` and on, pixels of ``side`` x ``side``."""
    names = tuple(map(str, range(classes)))
    return ModelContract("fake", names, names, Preprocessing(side, side, "stretch", None), **more)


class FakeRunner:
    """The class of an image is the red value of its first pixel: logit ``LOGIT`` among zeros.

    Keeps the batch sizes that it saw and its forks, and whether it was closed.
    """

    runtime, device, description = "fake", "cpu", "fake on CPU"

    def __init__(self, contract: ModelContract, batch: BatchProfile | None = None) -> None:
        self.contract = contract
        self.batch = batch
        self.sizes: list[int] = []
        self.forks: list[FakeRunner] = []
        self.closed = False

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        pre = self.contract.preprocessing
        assert not self.closed
        assert pixels_NHWC.dtype == np.uint8
        assert pixels_NHWC.shape[1:] == (pre.height, pre.width, 3)
        assert self.batch is None or self.batch.min <= len(pixels_NHWC) <= self.batch.max
        self.sizes.append(len(pixels_NHWC))
        classes = len(self.contract.labels)
        return LOGIT * np.eye(classes, dtype=np.float32)[pixels_NHWC[:, 0, 0, 0].astype(int) % classes]

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        return compute_step(self, pixels_NHWC)

    def fork(self) -> FakeRunner:
        self.forks.append(type(self)(self.contract, self.batch))
        return self.forks[-1]

    def close(self) -> None:
        self.closed = True


def run_steps(steps: Steps) -> tuple[list[str], NDArray[np.float32]]:
    """The names of the steps, and the logits that they end with."""
    names = []
    while True:
        try:
            names.append(next(steps))
        except StopIteration as ended:
            return names, ended.value
