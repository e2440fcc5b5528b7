"""A weight in float32, computed once instead of in every call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from alexnet_deploy.onnx_graph.layers import attribute


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
