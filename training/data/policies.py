"""kornia's augmentation policies for one picture at a time, drawn from the given seed alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from kornia.augmentation.auto import RandAugment, TrivialAugment
from numpy.typing import NDArray

# Legend: H height, W width, C channel (RGB)


class Policy:
    """TrivialAugment (Müller & Hutter, arXiv:2103.10158) or RandAugment (Cubuk et al., arXiv:1909.13719)."""

    def __init__(self, name: Literal["trivial", "rand"]) -> None:
        # RandAugment: 2 operations of strength 10 of 30 are kornia's and torchvision's middle ground.
        self._policy = TrivialAugment() if name == "trivial" else RandAugment(n=2, m=10)

    def __call__(self, pixels_HWC: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """An augmented copy of the picture, of the same size."""
        image_1CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]):  # kornia draws from the global generator, which is dropout's
            torch.manual_seed(seed)
            changed_1CHW = self._policy(image_1CHW)
        changed_HWC: NDArray[np.uint8] = changed_1CHW[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        return changed_HWC
