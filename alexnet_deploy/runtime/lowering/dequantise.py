"""A weight in float32, computed once instead of in every call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, remove_unused
from alexnet_deploy.onnx_graph.layers import attribute
from alexnet_deploy.onnx_graph.onnx_file import initializers


def dequantised(source: onnx.NodeProto, operands: Sequence[TensorProto]) -> NDArray[np.float32]:
    """What a DequantizeLinear of constants gives: per tensor, per slice of an axis, or per block of it."""
    values, scale, *zero = (numpy_helper.to_array(tensor) for tensor in operands)
    axis, block = int(attribute(source, "axis", 1)), int(attribute(source, "block_size", 0))

    def spread(numbers: NDArray[Any]) -> NDArray[np.float32]:
        wide = numbers.astype(np.float32)
        if block:
            return np.take(np.repeat(wide, block, axis=axis), range(values.shape[axis]), axis=axis)
        if not wide.ndim:
            return wide
        shape = [1] * values.ndim
        shape[axis] = -1
        return wide.reshape(shape)

    shifted = values.astype(np.float32)
    for numbers in zero:
        shifted = shifted - spread(numbers)
    return np.asarray(shifted * spread(scale), np.float32)


def dequantise_weights(model: onnx.ModelProto, layers: Iterable[onnx.NodeProto]) -> None:
    """Let ``layers`` read quantised weights as float32, computed now instead of in every call: the same numbers."""
    constants = initializers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    taken = names_in(model.graph)
    for layer in layers:
        node = makers.get(layer.input[1])
        if node is None or node.op_type != "DequantizeLinear" or any(name not in constants for name in node.input):
            continue
        operands = [constants[name] for name in node.input]
        if operands[1].data_type != onnx.TensorProto.FLOAT or len(operands[1].dims) > 1:
            continue  # its result is float16, or its scales belong to blocks
        name = fresh_name(taken, f"{node.output[0]}/float")
        model.graph.initializer.append(numpy_helper.from_array(dequantised(node, operands), name))
        layer.input[1] = name
    remove_unused(model.graph)
