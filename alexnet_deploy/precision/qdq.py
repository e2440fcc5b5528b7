"""float32 graph -> graph with explicit Q/DQ, in memory.

Where Q/DQ goes (x: activation, w: weight):

    op        x                   w                           bias     after the op
    Conv      int8, per tensor    int8, per output channel    float    nothing
    Gemm      int8, per tensor    int8, per output channel    float    nothing
    MatMul    int8, per tensor    int8, per output channel    -        nothing
    others    the types of their inputs

Symmetric, zero point 0. With fp8 (E4M3) x and w have one scale per tensor, and a convolution of fewer than 16 input
channels stays float: TensorRT-RTX falls back to float for AlexNet's first one anyway. The bias stays float because
TensorRT does not parse an int32 one. Nothing is quantised after an op, so logits keep their resolution.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.edits import tensors_read
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.types import QuantizedType, exclude_pattern

LARGEST: dict[QuantizedType, float] = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude of symmetric int8 and of float8 E4M3FN."""
SMALLEST_SCALE = 2.0**-24
"""The smallest float16 above 0: scales become float16 in int8+fp16."""
FP8_CONV_MIN_CHANNELS = 16
_OPS = ("Conv", "Gemm", "MatMul")


def quantizable(model: onnx.ModelProto, dtype: QuantizedType, exclude: str | None = None) -> list[onnx.NodeProto]:
    """The nodes of ``model`` that the table above quantises, except those whose name ``exclude`` matches.

    Raises UsageError where ``exclude`` is not a regular expression or matches no node.
    """
    excluded = exclude_pattern(exclude)
    if excluded and not any(excluded.search(node.name) for node in model.graph.node):
        layer = next((node.name for node in model.graph.node if node.op_type in _OPS), "")
        raise UsageError(f"`exclude` {exclude}: matches no node of the graph; its nodes have names like {layer}")
    weights = initializers(model)
    return [
        node
        for node in model.graph.node
        if node.op_type in _OPS
        and node.input[1] in weights
        and node.input[0] not in weights
        and weights[node.input[1]].data_type == TensorProto.FLOAT
        and (node.op_type != "MatMul" or len(weights[node.input[1]].dims) == 2)
        and (node.op_type != "Gemm" or (_attribute(node, "alpha", 1.0) == 1 and not _attribute(node, "transA", 0)))
        and not (dtype == "fp8" and node.op_type == "Conv" and weights[node.input[1]].dims[1] < FP8_CONV_MIN_CHANNELS)
        and not (excluded and excluded.search(node.name))
    ]


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of a weight that runs over output channels."""
    return 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1


def insert_qdq(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], thresholds: dict[str, float], dtype: QuantizedType
) -> None:
    """Insert Q/DQ before ``nodes``, in place; a tensor that feeds several nodes is quantised once.

    ``thresholds`` holds the largest magnitude of each input activation, by tensor name. The weights are finite:
    ``convert.calibrate`` refuses others.
    """
    graph = model.graph
    weights = initializers(model)
    chosen = {node.name for node in nodes}
    added: list[onnx.TensorProto] = []
    body: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if node.name in chosen:
            x, w = node.input[0], node.input[1]
            if x not in done:
                added += _scale_and_zero(x, np.float32(max(thresholds[x] / LARGEST[dtype], SMALLEST_SCALE)), dtype)
                body += [_linear("QuantizeLinear", x, x, "q"), _linear("DequantizeLinear", x, f"{x}/q", "dq")]
            if w not in done:
                axis = None if dtype == "fp8" else _output_axis(node)
                values, scale = _quantized_weight(numpy_helper.to_array(weights[w]), axis, dtype)
                added += [numpy_helper.from_array(values, f"{w}/q"), *_scale_and_zero(w, scale, dtype)]
                body.append(_linear("DequantizeLinear", w, f"{w}/q", "dq", axis))
            done |= {x, w}
            node.input[0], node.input[1] = f"{x}/dq", f"{w}/dq"
        body.append(node)
    used = {value.name for value in graph.output}.union(*map(tensors_read, body))
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]  # the graph is cleared
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(body)
    graph.initializer.extend([*kept, *added])


def _linear(op: str, tensor: str, source: str, suffix: str, axis: int | None = None) -> onnx.NodeProto:
    """QuantizeLinear or DequantizeLinear of ``source`` with the scale and zero point of ``tensor``."""
    inputs = [source, f"{tensor}/scale", f"{tensor}/zero"]
    node = helper.make_node(op, inputs, [f"{tensor}/{suffix}"], f"{tensor}/{op}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _quantized_weight(
    weight: NDArray[np.float32], axis: int | None, dtype: QuantizedType
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Round a weight to ``dtype`` with one scale per output channel (``axis``) or one for all (None)."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None, keepdims=axis is not None)
    # A channel of zeros has no range. With a tiny scale the int32 that ONNX Runtime makes of its bias (1.32,
    # WeightBiasQuantization) would overflow.
    largest = np.where(largest == 0, largest.max(), largest)
    scale = np.maximum(largest / LARGEST[dtype], SMALLEST_SCALE).astype(np.float32)
    if dtype == "int8":
        values: NDArray[np.generic] = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    else:
        values = np.clip(weight / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return values, scale.reshape(-1) if axis is not None else scale


def _scale_and_zero(
    tensor: str, scale: NDArray[np.float32] | np.float32, dtype: QuantizedType
) -> list[onnx.TensorProto]:
    scale = np.asarray(scale, np.float32)
    zero = np.zeros(scale.shape, np.int8 if dtype == "int8" else ml_dtypes.float8_e4m3fn)
    return [numpy_helper.from_array(scale, f"{tensor}/scale"), numpy_helper.from_array(zero, f"{tensor}/zero")]
