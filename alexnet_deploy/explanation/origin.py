"""Whether an engine was made from a checkpoint: by its contract, and by the values of all its layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.onnx_graph.layers import output_axis
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, precision_in
from alexnet_deploy.onnx_graph.weight_values import LayerValues, layers_with_weights

# Legend: K input, N output

_ROUNDED = {
    "fp32": 1e-5, "fp16": 1e-3, "int8-weights": 0.3, "int8": 0.03, "fp8": 0.06, "int4": 0.3
}  # fmt: skip
"""Largest relative distance (L2) of a layer's weights that rounding to a precision explains.

float16 keeps 11 bits, so 2**-12 of a weight. An int8 step is 1/127 of a channel's largest weight; weights of a normal
distribution then change by 1 %, those with outliers by more. float8 (E4M3) keeps 4 bits: 2.6 %. An int4 step is 1/7 of
the largest weight of 128: 11 %. Where weights alone are quantised, the rounding that keeps the outputs may move them
further, the more the fewer images calibrate it: 14 % was seen for int8 with two. Weights that were trained apart differ
by 100 % and more. Biases are float in every precision.
"""


def reason_against(onnx_path: Path, contract: ModelContract, checkpoint: Checkpoint) -> str | None:
    """Why the model in ``onnx_path``, with ``contract``, was not made from ``checkpoint``; None: it was.

    Raises InputError if the file cannot be read.
    """
    theirs = checkpoint.contract
    if contract.class_ids != theirs.class_ids:
        return f"it has other classes ({_few(theirs.labels)}) than the engine ({_few(contract.labels)})"
    ours, its = contract.preprocessing, theirs.preprocessing
    for field in ("height", "width", "mean", "std", "channels"):
        if getattr(ours, field) != getattr(its, field):
            return f"its pixels have another {field} than the engine's"
    model = load_onnx(onnx_path)
    layers = layers_with_weights(model)
    expected = [each for each in checkpoint.build().modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    if len(layers) != len(expected):
        return f"it has {len(expected)} layers with weights, the engine {len(layers)}"
    precision = precision_in(model)
    for layer, module in zip(layers, expected, strict=True):
        wanted = module.weight.detach().numpy()
        found = _like(layer, wanted)
        if found is None:
            return f"the layer {layer.node.name} has another shape"
        # Beside dense layers in int4 the convolutions are float16.
        stored = "fp16" if precision == "int4" and layer.node.op_type == "Conv" else precision.removesuffix("+fp16")
        if (distance := _distance(found, wanted)) > _ROUNDED[stored]:
            return f"the weights of {layer.node.name} differ by {100 * distance:.1f} %, more than {precision} rounds"
        zero_N = np.zeros(len(wanted), np.float32)  # an export leaves out a bias of zeros
        ours_N = zero_N if layer.bias is None else layer.bias
        its_N = zero_N if module.bias is None else module.bias.detach().numpy()
        if _distance(ours_N, its_N) > _ROUNDED["fp16"]:
            return f"the biases of {layer.node.name} differ"
    return None


def _like(layer: LayerValues, wanted: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The weight of ``layer`` in the layout of torch's weight ``wanted``; None if it cannot be that weight."""
    values = layer.weight
    if wanted.ndim == 2 and values.ndim == 2:
        values_NK = values if output_axis(layer.node) == 0 else values.T
        values = values_NK[:, : wanted.shape[1]]  # rows of zeros fill up the last block of int4
    return values if values.shape == wanted.shape else None


def _distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The relative distance (L2); infinite between arrays of different shapes."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))


def _few(labels: tuple[str, ...]) -> str:
    return f"{len(labels)}: {', '.join(labels[:3])}{' ...' if len(labels) > 3 else ''}"
