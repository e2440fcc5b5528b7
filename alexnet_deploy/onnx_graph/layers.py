"""The nodes with weights: Conv, Gemm, MatMul."""

from __future__ import annotations

import onnx
from onnx import helper

LAYERS = ("Conv", "Gemm", "MatMul")


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """The number in an attribute of ``node``, or ``default`` where it has none of that name."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def output_axis(layer: onnx.NodeProto) -> int:
    """The axis of a layer's weight that runs over output channels."""
    return 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
