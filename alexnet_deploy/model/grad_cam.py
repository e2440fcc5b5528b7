"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): where the last convolution speaks for a class."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet_deploy.model.architecture import AlexNet, PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint

# Legend: H height, W width, C channel, K class, M feature map


class GradCam:
    """The maps of one checkpoint, in float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        pre = checkpoint.contract.preprocessing
        self._model: AlexNet = checkpoint.build()
        self._pixels = PixelClassifier(nn.Identity(), pre.mean, pre.std)
        features = self._model.get_submodule(checkpoint.arch.feature_name)
        assert isinstance(features, nn.Sequential)
        last = max(i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d))
        # The activation belongs to the convolution; the pool behind it would halve the resolution.
        self._features, self._pool = features[: last + 2], features[last + 2 :]
        self.layer = f"{checkpoint.arch.feature_name}.{last}"
        """The convolution."""

    def __call__(self, pixels_HWC: NDArray[np.uint8], target: int) -> NDArray[np.float32]:
        """The map of class ``target`` for uint8 RGB pixels ``[H, W, 3]``: 13 x 13 for 224 x 224, 0 or more.

        Each feature map counts by the mean of the logit's gradient over it; what speaks against the class is cut off,
        as in the paper.
        """
        with torch.no_grad():
            x_NCHW = self._pixels(torch.from_numpy(pixels_HWC[None].copy()))
            maps_NMHW = self._features(x_NCHW)
        maps_NMHW.requires_grad_(True)
        with torch.enable_grad():
            logits_NK = self._model.classifier(self._pool(maps_NMHW).flatten(1))
            (gradient_NMHW,) = torch.autograd.grad(logits_NK[0, target], maps_NMHW)
        weight_M = gradient_NMHW[0].mean(dim=(1, 2))
        map_HW = torch.einsum("m,mhw->hw", weight_M, maps_NMHW.detach()[0]).clamp(min=0)
        return np.asarray(map_HW.numpy(), np.float32)
