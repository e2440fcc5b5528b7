"""The output shape and parameters of each layer, by torchinfo."""

from __future__ import annotations

import torch
import torchinfo

from alexnet_deploy.model.architecture import INPUT_SIDE, AlexNet, Architecture


def layer_table(arch: Architecture) -> str:
    """Return a table for people; the weights are never allocated."""
    with torch.device("meta"):
        model = AlexNet(arch)
    statistics = torchinfo.summary(
        model,
        input_size=(1, 3, INPUT_SIDE, INPUT_SIDE),
        col_names=("output_size", "num_params", "mult_adds"),
        device="meta",
        verbose=0,
    )
    return str(statistics)
