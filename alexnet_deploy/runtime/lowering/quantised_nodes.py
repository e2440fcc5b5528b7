"""What the rewriting of int8 graphs asks of single nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

_KEEP_ORDER = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""They only choose or rearrange values, so they give the same in front of a QuantizeLinear and behind it."""


def zero_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> np.int8 | np.uint8 | None:
    """The zero point of a QuantizeLinear or DequantizeLinear of 8 bits with one float32 scale; None for another."""
    names = [name for name in node.input[1:] if name]
    if not set(names) <= constants.keys() or any(a.name == "output_dtype" and a.i for a in node.attribute):
        return None
    scale, *zeros = (numpy_helper.to_array(constants[name]) for name in names)
    zero = zeros[0] if zeros else np.zeros((), np.uint8)  # as the standard says
    if scale.dtype != np.float32 or scale.size != 1 or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    found: np.int8 | np.uint8 = zero.reshape(-1)[0]
    return found


def bounds_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float] | None:
    """The lowest and highest number that a Relu or a Clip gives; None where they are no constants of float32."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    found = [-math.inf, math.inf]
    for number, name in enumerate(node.input[1:]):
        bound = constants.get(name)
        if name and (bound is None or bound.data_type != onnx.TensorProto.FLOAT):
            return None
        if bound is not None:
            found[number] = float(numpy_helper.to_array(bound).reshape(-1)[0])
    return None if node.attribute else (found[0], found[1])  # before opset 11 they were attributes


def keeps_order(node: onnx.NodeProto, source: str) -> bool:
    """Whether ``node`` gives the same in front of a QuantizeLinear as behind it."""
    if node.op_type not in _KEEP_ORDER or node.input[0] != source or len(node.output) > 1:
        return False
    if node.op_type != "MaxPool":
        return True
    # A window that lies in the padding alone has no value: -inf in float32, 0 in uint8.
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    padding, sides = found.get("pads", [0]), found["kernel_shape"]
    plain = not found.get("ceil_mode", 0) and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    return plain and max(padding) < min(sides) and set(found.get("dilations", [1])) == {1}
