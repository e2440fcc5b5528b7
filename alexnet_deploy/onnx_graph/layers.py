"""The nodes with weights: Conv, Gemm, MatMul; and what int4 makes of a Gemm, which is one layer all the same."""

from __future__ import annotations

import onnx
from onnx import helper

from alexnet_deploy.onnx_graph.element_types import makers_in

LAYERS = ("Conv", "Gemm", "MatMul")


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """The number in an attribute of ``node``, or ``default`` where it has none of that name."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def output_axis(layer: onnx.NodeProto) -> int:
    """The axis of a layer's weight that runs over output channels."""
    return 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1


def products_before_bias(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The products that int4 makes of a Gemm with a bias, by the output of the Add behind them: the layer's output."""
    makers = makers_in(graph)
    found = {}
    for node in graph.node:
        product = makers.get(node.input[0]) if node.op_type == "Add" else None
        if product is None or product.op_type != "MatMul" or not node.name.startswith(f"{product.name}/Add"):
            continue
        weight = makers.get(product.input[1])
        if weight is not None and weight.op_type == "DequantizeLinear":  # else the two are the user's own
            found[node.output[0]] = product
    return found


def pads_to_blocks(node: onnx.NodeProto) -> bool:
    """Whether ``node`` is the Pad with which int4 fills the last block of a layer's input: no layer of the model."""
    tensor = node.name.rpartition("/Pad")[0]
    amounts = any(name.startswith(f"{tensor}/padding") for name in node.input)
    return node.op_type == "Pad" and amounts and node.output[0].startswith(f"{tensor}/padded")
