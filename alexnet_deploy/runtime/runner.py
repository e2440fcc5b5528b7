"""What every runtime offers: pixels in, logits out."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract

# Legend: N batch, H height, W width, C channel (RGB), K class

Steps = Generator[str, None, NDArray[np.float32]]
"""One call, step by step: yields the name of each step when it has ended, returns the logits ``[N, K]``."""


class Runner(Protocol):
    """One engine, ready to run on one device. Not for two threads at once; ``fork`` gives each its own."""

    contract: ModelContract
    runtime: str
    """A key of ``select.RUNTIMES``, or ``"torch"``."""
    device: str
    """``"cpu"``, or the compute capability of the GPU, such as ``"sm89"``."""
    description: str
    """For people only: runtime, version, device, such as ``OpenVINO 2026.4.1 on CPU``."""
    batch: BatchProfile | None
    """Batch sizes that one call accepts; None: any."""

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""
        ...

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The same call, for a timer: ``"host-to-device"``, ``"compute"``, ``"device-to-host"``.

        Each step is waited for before the next one starts, so the whole can take longer than a plain call. A runtime
        that does not copy, or does not separate copying from computing, has the step ``"compute"`` alone.
        """
        ...

    def fork(self) -> Runner:
        """Another request of the same loaded engine, for another thread; only the weights are shared.

        The caller closes it, before this one.
        """
        ...

    def close(self) -> None:
        """Give back device memory and threads; calling it twice is fine."""
        ...


def compute_step(runner: Runner, pixels_NHWC: NDArray[np.uint8]) -> Steps:
    """``Runner.steps`` of a runtime with one step."""
    logits_NK = runner(pixels_NHWC)
    yield "compute"
    return logits_NK
