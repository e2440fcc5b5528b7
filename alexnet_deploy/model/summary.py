"""The output shape and parameters of each layer, by torchinfo."""

from __future__ import annotations

from typing import Any

import torch
import torchinfo

from alexnet_deploy.model.architecture import INPUT_SIDE, AlexNet, Architecture


def layer_table(arch: Architecture) -> str:
    """Return a table for people."""
    return str(_statistics(arch))


def layer_rows(arch: Architecture) -> list[dict[str, Any]]:
    """Return the name, operator, output shape (of one image) and number of parameters of each layer, for programs."""
    return [
        {
            "layer": f"{layer.parent_info.var_name}.{layer.var_name}",
            "operator": layer.class_name,
            "output": layer.output_size[1:],
            "parameters": layer.num_params,
        }
        for layer in _statistics(arch).summary_list
        if layer.is_leaf_layer and layer.parent_info is not None
    ]


def _statistics(arch: Architecture) -> torchinfo.ModelStatistics:
    """The weights are never allocated."""
    with torch.device("meta"):
        model = AlexNet(arch)
    return torchinfo.summary(
        model,
        input_size=(1, 3, INPUT_SIDE, INPUT_SIDE),
        col_names=("output_size", "num_params", "mult_adds"),
        device="meta",
        verbose=0,
    )
