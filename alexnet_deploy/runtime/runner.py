"""What every runtime offers: pixels in, logits out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.runtime.stage_timer import Lap

# Legend: N batch, H height, W width, C channel (RGB), K class


class Runner(Protocol):
    """One engine, ready to run on one device."""

    contract: ModelContract
    description: str
    """For people: runtime, version, device, e.g. ``OpenVINO 2026.4.1 on CPU``."""
    batch: BatchProfile | None
    """Batch sizes that one call accepts; None: any."""
    lap: Lap
    """Told when a copy to or from a GPU ends, which is then waited for; ``no_lap`` as long as nobody asks."""

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""
        ...

    def fork(self) -> Runner:
        """Another request of the same loaded engine, for another thread: the weights are shared, nothing else is.

        The caller closes it, before this one.
        """
        ...

    def close(self) -> None:
        """Give back device memory and threads; calling it twice is fine."""
        ...
