"""How a graph ends: the activation that its scores come from, and what stands between the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.outputs.output_choice import SHAPE_OPS, producers_of
from alexnet_deploy.onnx_graph.onnx_file import initializers

ROUNDING: dict[int, float] = {
    TensorProto.FLOAT: 0.0, TensorProto.DOUBLE: 0.0, TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1e-2
}  # fmt: skip
"""How far a probability may move when it, or logits up to 8 before it, are rounded to this type, twice at most."""
_QUANTISED = 0.02
"""The same for int8: a step of 1/127 or 1/255, and the largest number below 1."""
_EXACT = 1e-5
"""The sum of a softmax over thousands of classes in float32, in another order."""

_LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ConvInteger", "MatMulInteger"))
_UNBOUNDED = SHAPE_OPS | frozenset((
    "Add", "Sub", "Mul", "Div", "Sum", "Neg", "BatchNormalization", "Cast", "QuantizeLinear", "DequantizeLinear",
    "ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "AveragePool", "GlobalMaxPool", "MaxPool", "Concat",
    "Slice", "Gather", "Split", "Pad", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Softplus", "Gelu",
    "HardSwish", "Mish", "Expand", "Tile", "Shape",
))  # fmt: skip
"""With nothing else behind the last layer, scores within 0..1 are so by chance."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Scores = ``factor`` * ``activation``(``before``), or their logarithm, apart from shapes and rounding.

    ``activation`` is "Softmax", "Sigmoid" or None. ``before`` is None where only the whole operator can compute it.
    """

    activation: str | None = None
    before: str | None = None
    logarithm: bool = False
    factor: float = 1.0
    tolerance: float = _EXACT
    """How far rounding moves a probability."""


def find_ending(model: onnx.ModelProto, tensor: str) -> Ending:
    """Walk back from ``tensor`` over operators that change shape, scale or rounding, to an activation.

    A Clip counts as rounding, though it may be more: whoever can run the graph compares.
    """
    producers, weights = producers_of(model.graph), initializers(model)
    factor, tolerance, logarithm = 1.0, _EXACT, False
    while (node := producers.get(tensor)) is not None:
        op, source = node.op_type, node.input[0] if node.input else ""
        if op == "LogSoftmax" and factor != 1:
            break
        if op in ("Softmax", "LogSoftmax", "Sigmoid"):
            return Ending(op.removeprefix("Log"), source, logarithm or op == "LogSoftmax", factor, tolerance)
        if op in ("QLinearSoftmax", "QLinearSigmoid"):
            return Ending(op.removeprefix("QLinear"), None, logarithm, factor, _QUANTISED)
        if op == "Log" and not logarithm and factor == 1:
            logarithm = True
        elif op in ("Mul", "Div") and not logarithm:
            scale = _positive_scalar(weights, node)
            if scale is None:
                break
            source, value = scale
            factor *= value if op == "Mul" else 1 / value
        elif op == "Cast":
            kind = helper.get_node_attr_value(node, "to")
            if kind not in ROUNDING:
                break
            tolerance = max(tolerance, ROUNDING[kind])
        elif op in ("QuantizeLinear", "DequantizeLinear"):
            tolerance = _QUANTISED
        elif op not in SHAPE_OPS and op != "Clip":
            break
        tensor = source
    return Ending()


def _positive_scalar(weights: dict[str, TensorProto], node: onnx.NodeProto) -> tuple[str, float] | None:
    """The other input of a Mul or Div by one positive number, and the number."""
    pairs = [(node.input[0], node.input[1])]
    if node.op_type == "Mul":
        pairs.append((node.input[1], node.input[0]))
    for other, constant in pairs:
        if constant in weights and other not in weights:
            values = numpy_helper.to_array(weights[constant])
            if values.size and (values == values.flat[0]).all() and np.isfinite(values.flat[0]) and values.flat[0] > 0:
                return other, float(values.flat[0])
    return None


def nodes_behind_the_last_layer(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """The nodes on all ways back from ``tensor`` to a layer with weights, without these layers."""
    producers = producers_of(model.graph)
    found: dict[str, onnx.NodeProto] = {}
    open_tensors = [tensor]
    while open_tensors:
        node = producers.get(open_tensors.pop())
        if node is not None and node.op_type not in _LAYERS and node.output[0] not in found:
            found[node.output[0]] = node
            open_tensors += node.input
    return list(found.values())


def may_be_bounded(nodes: list[onnx.NodeProto]) -> bool:
    """Whether one of ``nodes`` may keep its output within 0..1, whatever its input."""
    return any(node.op_type not in _UNBOUNDED for node in nodes)


def activated(before_NK: NDArray[np.float64], ending: Ending) -> NDArray[np.float64]:
    """``ending.activation`` of scores; ``inference.probabilities``, the definition for answers, is above this room."""
    if ending.activation == "Sigmoid":
        return 0.5 * (1 + np.tanh(before_NK / 2))
    powers_NK = np.exp(before_NK - before_NK.max(axis=1, keepdims=True))
    probabilities_NK: NDArray[np.float64] = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return probabilities_NK
