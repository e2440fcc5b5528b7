"""What is inside a checkpoint: the filters of its first layer, and what its layers make of one photo."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint

# Legend: F filter, C channel, H height, W width


def first_convolution(checkpoint: Checkpoint) -> tuple[str, NDArray[np.float32]]:
    """Name and weights ``[F, C, H, W]`` of the first convolution."""
    name = f"{checkpoint.arch.feature_name}.0"
    return name, np.asarray(checkpoint.weights[f"{name}.weight"].float().numpy(), np.float32)


@torch.inference_mode()
def feature_maps(checkpoint: Checkpoint, pixels_HWC: NDArray[np.uint8]) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Name, kind and output ``[C, H, W]`` of each layer of the features; a convolution is shown by its activation."""
    pre = checkpoint.contract.preprocessing
    x = PixelClassifier(nn.Identity(), pre.mean, pre.std)(torch.from_numpy(pixels_HWC[None].copy()))
    found = []
    for name, layer in checkpoint.build().get_submodule(checkpoint.arch.feature_name).named_children():
        x = layer(x)
        if not isinstance(layer, nn.Conv2d):
            values_CHW = np.array(x[0].numpy(), np.float32)  # a copy: the next ReLU works in place
            found.append((f"{checkpoint.arch.feature_name}.{name}", type(layer).__name__, values_CHW))
    return found
