"""Models whose graph scales the pixel values 0..255 itself: their mean and std are already inside."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import readers_in
from alexnet_deploy.onnx_graph.onnx_file import initializers

_MOVES = frozenset(("Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Gather", "Slice", "Split"))
"""Operators that leave the values as they are."""
_SMALLEST_RANGE, _LARGEST_RANGE = 20.0, 260.0
"""A division by so much is for values up to 255: deviations of ImageNet are 57, and 127.5 and 255 are usual."""
_SMALLEST_MEAN = 2.0
"""A mean above it is no mean of values within 0..1 or -1..1."""


def scaling_node(model: onnx.ModelProto, input_name: str) -> str | None:
    """The node that brings values of 0..255 to a smaller range, before any other arithmetic; None without one."""
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in _small_constants(model).items()}
    readers = readers_in(model.graph)
    tensor = input_name
    for _ in range(len(model.graph.node)):
        found = readers.get(tensor, [])
        if len(found) != 1 or not found[0].output:
            return None
        (node,) = found
        if node.op_type not in _MOVES:
            return (node.name or node.op_type) if _scales(node, constants, tensor) else None
        tensor = node.output[0]
    return None


def _small_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    found = {name: tensor for name, tensor in initializers(model).items() if np.prod(tensor.dims) <= 4}
    for node in model.graph.node:
        value = next((a for a in node.attribute if a.name in ("value", "value_float", "value_floats")), None)
        if node.op_type == "Constant" and value is not None:
            if value.name == "value":
                found[node.output[0]] = value.t
            else:
                numbers = np.asarray(helper.get_attribute_value(value), np.float32)
                found[node.output[0]] = numpy_helper.from_array(numbers)
    return found


def _scales(node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]], tensor: str) -> bool:
    other = {"BatchNormalization": 3}.get(node.op_type, 1)
    if len(node.input) <= other:
        return False
    name = node.input[other] if node.input[0] == tensor else node.input[0] if node.op_type in ("Mul", "Add") else ""
    values = constants.get(name)
    if values is None or values.size == 0:
        return False
    magnitudes = np.abs(values.astype(np.float64))
    if node.op_type == "Mul":
        return bool((magnitudes >= 1 / _LARGEST_RANGE).all() and (magnitudes <= 1 / _SMALLEST_RANGE).all())
    if node.op_type == "Div":
        return bool((magnitudes >= _SMALLEST_RANGE).all() and (magnitudes <= _LARGEST_RANGE).all())
    return node.op_type in ("Sub", "Add", "BatchNormalization") and bool(magnitudes.max() > _SMALLEST_MEAN)
