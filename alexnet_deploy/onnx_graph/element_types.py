"""The types in which the nodes of an ONNX graph compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from alexnet_deploy.onnx_graph.limits import STANDARD_DOMAINS
from alexnet_deploy.onnx_graph.sizes import without_weights

COMPUTE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Nodes whose precision decides speed and accuracy. For the rest (pooling, LRN, ...) fusion decides the precision."""
MOVES_DATA = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that a builder runs on quantised values, so they may stand between Q/DQ and the node that uses it."""
QUANTISED = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN})
WEIGHTS_ALONE: dict[int, str] = {
    TensorProto.INT8: "int8-weights", TensorProto.UINT8: "int8-weights",
    TensorProto.INT4: "int4", TensorProto.UINT4: "int4",
}  # fmt: skip
"""What a layer is called by the type of its weight, where its other operand is float."""
_INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger"})


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor whose type is known."""
    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {w.name: w.data_type for w in graph.initializer}


def makers_in(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {output: node for node in graph.node for output in node.output}


def origin(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that computes the values of ``name``, before nodes that only move them."""
    maker = makers.get(name)
    while maker is not None and maker.op_type in MOVES_DATA:
        maker = makers.get(maker.input[0])
    return maker


def stored_type(name: str, types: Mapping[str, int], makers: Mapping[str, onnx.NodeProto]) -> int:
    """The type of an operand; of one that a DequantizeLinear makes, the type that this reads. 0 if unknown."""
    maker = origin(name, makers)
    source = maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name
    return types.get(source, 0)


def weight_alone(
    node: onnx.NodeProto, types: Mapping[str, int], makers: Mapping[str, onnx.NodeProto]
) -> tuple[str, onnx.NodeProto] | None:
    """The name in ``WEIGHTS_ALONE`` for a compute node whose weight alone is quantised, and its DequantizeLinear."""
    x, w = node.input[:2]
    maker = origin(w, makers)
    if maker is None or maker.op_type != "DequantizeLinear" or stored_type(x, types, makers) in QUANTISED:
        return None
    name = WEIGHTS_ALONE.get(types.get(maker.input[0], 0))
    return None if name is None or maker.input[0] in makers else (name, maker)


def is_quantised(node: onnx.NodeProto) -> bool:
    """Whether ``node`` makes, reads or computes on quantised numbers."""
    return node.op_type in _INTEGER_OPS or node.op_type.startswith(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention")
    )


def computed_types(model: onnx.ModelProto) -> Iterator[frozenset[int]]:
    """For each compute node the types of its operands, with the quantised type if both operands are quantised.

    In a graph without compute nodes, the types of all its tensors.
    """
    types, makers = element_types(model), makers_in(model.graph)
    found = False
    for node in model.graph.node:
        integer = node.op_type in _INTEGER_OPS or node.op_type.startswith(("QLinearConv", "QLinearMatMul", "QGemm"))
        if integer:
            yield frozenset({TensorProto.INT8})
        elif node.op_type in COMPUTE_OPS and node.domain in STANDARD_DOMAINS:
            seen = {types.get(name, 0) for name in node.input[:2]}
            stored = {stored_type(name, types, makers) for name in node.input[:2]}
            yield frozenset(seen | (stored if stored <= QUANTISED else set()))
        else:
            continue
        found = True
    if not found:
        yield frozenset(types.values()) - QUANTISED


def weights_alone(model: onnx.ModelProto) -> set[str]:
    """The names in ``WEIGHTS_ALONE`` of the compute nodes of a model."""
    types, makers = element_types(model), makers_in(model.graph)
    nodes = (n for n in model.graph.node if n.op_type in COMPUTE_OPS and n.domain in STANDARD_DOMAINS)
    found = (weight_alone(node, types, makers) for node in nodes)
    return {each[0] for each in found if each is not None}
