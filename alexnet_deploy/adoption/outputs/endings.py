"""How a graph ends: the activation that its scores come from, and what stands between the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.outputs.output_choice import SHAPE_OPS, producers_of
from alexnet_deploy.onnx_graph.onnx_file import initializers

ROUNDING: dict[int, float] = {
    TensorProto.FLOAT: 0.0, TensorProto.DOUBLE: 0.0, TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1e-2
}  # fmt: skip
"""How far a probability may move when it, or logits up to 8 before it, are rounded to this type, twice at most."""
_QUANTISED = 0.02
"""The same for int8: a step of 1/127 or 1/255, and the largest number below 1."""
_WHOLE_NUMBERS = (
    TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.UINT32, TensorProto.INT32,
    TensorProto.UINT64, TensorProto.INT64,
)  # fmt: skip
_EXACT = 1e-5
"""The sum of a softmax over thousands of classes in float32, in another order."""

_LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ConvInteger", "MatMulInteger"))
_SQUASHING = frozenset(("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Exp"))
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
    rounded_at: list[float] = []  # the factor behind each rounding to whole numbers

    def ending(activation: str, before: str | None, *, log: bool, at_least: float = 0.0) -> Ending:
        # A whole number is half a unit off; a unit is 1 / 100 of a probability in percent.
        whole = sum(behind / factor for behind in rounded_at)
        return Ending(activation, before, log, factor, max(tolerance, at_least) + whole)

    while (node := producers.get(tensor)) is not None:
        op, source = node.op_type, node.input[0] if node.input else ""
        if op == "LogSoftmax" and factor != 1:
            break
        if op in ("Softmax", "LogSoftmax", "Sigmoid"):
            return ending(op.removeprefix("Log"), source, log=logarithm or op == "LogSoftmax")
        if op in ("QLinearSoftmax", "QLinearSigmoid"):
            return ending(op.removeprefix("QLinear"), None, log=logarithm, at_least=_QUANTISED)
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
            if kind in ROUNDING:
                tolerance = max(tolerance, ROUNDING[kind])
            elif kind in _WHOLE_NUMBERS:
                rounded_at.append(factor)
            else:
                break
        elif op in ("Round", "Floor", "Ceil"):
            rounded_at.append(factor)
        elif op == "DequantizeLinear":
            tolerance = _QUANTISED
            inner = producers.get(source)
            if inner is not None and inner.op_type == "QuantizeLinear":
                source = inner.input[0]
        elif op == "QuantizeLinear":
            step = _step_from_zero(weights, node)
            if step is None:
                break
            factor /= step
            tolerance = _QUANTISED
        elif op not in SHAPE_OPS and op != "Clip":
            break
        tensor = source
    return Ending()


def _step_from_zero(weights: dict[str, TensorProto], node: onnx.NodeProto) -> float | None:
    """The step of a QuantizeLinear for the whole tensor with zero point 0, as 1/255; None for another one."""
    scale = weights.get(node.input[1])
    zero = weights.get(node.input[2]) if len(node.input) > 2 else None
    if scale is None or (len(node.input) > 2 and zero is None):
        return None
    step = numpy_helper.to_array(scale)
    if step.size != 1 or not step.flat[0] > 0 or (zero is not None and numpy_helper.to_array(zero).any()):
        return None
    return float(step.flat[0])


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


def activation_behind(nodes: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """The first of ``nodes`` that logits do not come from; x * Sigmoid(x) is a layer's own activation."""
    gates = {(node.input[0], node.output[0]) for node in nodes if node.op_type in ("Sigmoid", "HardSigmoid")}
    gated = {pair for node in nodes if node.op_type == "Mul" for pair in (tuple(node.input), tuple(node.input)[::-1])}
    for node in nodes:
        if node.op_type in _SQUASHING and (node.input[0], node.output[0]) not in gates & gated:
            return node
    return None
