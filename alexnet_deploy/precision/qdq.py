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

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, readers_in, tensors_read
from alexnet_deploy.onnx_graph.layers import LAYERS, attribute, output_axis
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.types import QuantizedType, exclude_pattern
from alexnet_deploy.precision.weights import DENSE

LARGEST: dict[QuantizedType, float] = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude of symmetric int8 and of float8 E4M3FN."""
_SMALLEST_SCALE = 2.0**-63
"""Kernels multiply the scales of input and weight: their product is a normal float32, with all its bits."""
_SMALLEST_FLOAT16 = 2.0**-24
"""The smallest float16 above 0: scales become float16 in int8+fp16 and fp8+fp16."""
_MOST_BIAS_STEPS = 2.0**29
"""A quarter of int32: the rest is for the products. A bias in float32 has fewer bits."""
_LARGEST_FLOAT16_SCALE: dict[QuantizedType, float] = {"int8": 511.75, "fp8": 146.125}
"""The largest float16 with which all numbers, int8's -128 too, are dequantised to no more than float16's 65504."""
FP8_CONV_MIN_CHANNELS = 16


def quantizable(model: onnx.ModelProto, dtype: QuantizedType, exclude: str | None = None) -> list[onnx.NodeProto]:
    """The nodes of ``model`` that the table above or that of ``weights.py`` quantises, without those of ``exclude``.

    Raises UsageError where ``exclude`` is not a regular expression or matches no node.
    """
    excluded = exclude_pattern(exclude)
    if excluded and not any(excluded.search(node.name) for node in model.graph.node):
        layer = next((node.name for node in model.graph.node if node.op_type in LAYERS), "")
        raise UsageError(f"`exclude` {exclude}: matches no node of the graph; its nodes have names like {layer}")
    weights = initializers(model)
    return [
        node
        for node in model.graph.node
        if node.op_type in (DENSE if dtype == "int4" else LAYERS)
        and node.domain in ("", "ai.onnx")
        and node.input[1] in weights
        and node.input[0] not in weights
        and weights[node.input[1]].data_type == TensorProto.FLOAT
        and (len(weights[node.input[1]].dims) == 2 or node.op_type == "Conv")
        and math.prod(weights[node.input[1]].dims) > 0
        and (node.op_type != "Gemm" or (attribute(node, "alpha", 1.0) == 1 and not attribute(node, "transA", 0)))
        and not (dtype == "int4" and len(node.input) > 2 and attribute(node, "beta", 1.0) != 1)  # it becomes an Add
        and not (dtype == "fp8" and node.op_type == "Conv" and weights[node.input[1]].dims[1] < FP8_CONV_MIN_CHANNELS)
        and not (excluded and excluded.search(node.name))
    ]


def insert_qdq(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    thresholds: dict[str, float],
    dtype: QuantizedType,
    *,
    float16: bool = False,
) -> None:
    """Insert Q/DQ before ``nodes``, in place; a tensor that feeds several nodes is quantised once.

    ``thresholds`` holds the largest magnitude of each input activation, by tensor name. The weights are finite:
    ``convert.calibrate`` refuses others. With ``float16`` the scales are float16 numbers: weights that were rounded to
    other scales than those in the file would all be too large or too small, by up to half where a scale is tiny.
    """
    graph = model.graph
    weights = initializers(model)
    chosen = {node.name for node in nodes}
    inserted = _Inserted(names_in(graph), dtype, float16)
    scale_x = {x: _scale(np.asarray(thresholds[x]), dtype, float16) for x in {node.input[0] for node in nodes}}
    least = _least_for_biases(nodes, model, scale_x, dtype)
    body: list[onnx.NodeProto] = []
    quantised: dict[str, str] = {}
    rounded: dict[tuple[str, int | None, bytes], str] = {}
    for node in graph.node:
        if node.name in chosen:
            x, w = node.input[0], node.input[1]
            if x not in quantised:
                quantised[x], pair = inserted.activation(x, scale_x[x])
                body += pair
            values, axis = numpy_helper.to_array(weights[w]), _scale_axis(node, dtype)
            scale = _weight_scale(values, axis, dtype, float16, least.get(node.name, 0.0))
            key = w, axis, scale.tobytes()
            if key not in rounded:  # nodes may read one weight along different axes, or beside other biases
                rounded[key], dequantise = inserted.weight(w, values, axis, scale)
                body.append(dequantise)
            node.input[0], node.input[1] = quantised[x], rounded[key]
        body.append(node)
    used = {value.name for value in graph.output}.union(*map(tensors_read, body))
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]  # the graph is cleared
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(body)
    graph.initializer.extend([*kept, *inserted.tensors])


class _Inserted:
    """Makes the Q/DQ nodes of one graph under names that it does not have yet, and collects their tensors."""

    def __init__(self, taken: set[str], dtype: QuantizedType, float16: bool) -> None:
        self._taken = taken
        self._dtype = dtype
        self._float16 = float16
        self.tensors: list[TensorProto] = []

    def activation(self, x: str, scale: NDArray[np.float32]) -> tuple[str, list[onnx.NodeProto]]:
        """The name of the dequantised ``x``, and its QuantizeLinear and DequantizeLinear."""
        operands = self._scale_and_zero(x, scale)
        quantise = self._linear("QuantizeLinear", x, [x, *operands], "q")
        dequantise = self._linear("DequantizeLinear", x, [quantise.output[0], *operands], "dq")
        return dequantise.output[0], [quantise, dequantise]

    def weight(
        self, w: str, values: NDArray[np.float32], axis: int | None, scale: NDArray[np.float32]
    ) -> tuple[str, onnx.NodeProto]:
        """The name of the dequantised weight, and its DequantizeLinear."""
        if self._dtype == "int8":
            rounded: NDArray[np.generic] = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        else:
            rounded = np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        scale = scale.reshape(-1) if axis is not None else scale
        operands = [self._add(f"{w}/q", rounded), *self._scale_and_zero(w, scale)]
        dequantise = self._linear("DequantizeLinear", w, operands, "dq")
        if axis is not None:
            dequantise.attribute.append(helper.make_attribute("axis", axis))
        return dequantise.output[0], dequantise

    def _linear(self, op: str, tensor: str, inputs: list[str], suffix: str) -> onnx.NodeProto:
        output, name = fresh_name(self._taken, f"{tensor}/{suffix}"), fresh_name(self._taken, f"{tensor}/{op}")
        return helper.make_node(op, inputs, [output], name)

    def _scale_and_zero(self, tensor: str, scale: NDArray[np.float32]) -> list[str]:
        zero = np.zeros(scale.shape, np.int8 if self._dtype == "int8" else ml_dtypes.float8_e4m3fn)
        return [self._add(f"{tensor}/scale", scale), self._add(f"{tensor}/zero", zero)]

    def _add(self, wanted: str, values: NDArray[np.generic]) -> str:
        name = fresh_name(self._taken, wanted)
        self.tensors.append(numpy_helper.from_array(values, name))
        return name


def _scale_axis(node: onnx.NodeProto, dtype: QuantizedType) -> int | None:
    """The axis of a weight along which it has one scale per output; None: one for all."""
    return None if dtype == "fp8" else output_axis(node)


def _least_for_biases(
    nodes: Sequence[onnx.NodeProto],
    model: onnx.ModelProto,
    scale_x: Mapping[str, NDArray[np.float32]],
    dtype: QuantizedType,
) -> dict[str, float | NDArray[np.float64]]:
    """The smallest scales of int8 weights beside their biases, by node.

    ONNX Runtime makes int32 of a bias, in steps of the product of both scales (1.32, WeightBiasQuantization, which our
    own sessions leave out). It overflows where the weights of an output are tiny, as those of a dead filter are. With
    this scale it does not, and what is rounded away of a product is at most the last bit of its bias. The one scale of
    an fp8 weight serves all outputs: the bias of one, such as that of a masked class, must not decide it.
    """
    if dtype == "fp8":
        return {}
    constants, readers = initializers(model), readers_in(model.graph)
    found: dict[str, float | NDArray[np.float64]] = {}
    for node in nodes:
        biases = list(node.input[2:])
        if node.op_type == "MatMul":  # ONNX Runtime makes a Gemm of it and the Add that follows
            biases = [name for each in readers.get(node.output[0], []) if each.op_type == "Add" for name in each.input]
        outputs = constants[node.input[1]].dims[output_axis(node)]
        for name in constants.keys() & biases:
            bias = np.abs(numpy_helper.to_array(constants[name]).astype(np.float64))
            bias *= abs(attribute(node, "beta", 1.0)) / (scale_x[node.input[0]] * _MOST_BIAS_STEPS)
            each = bias.reshape(-1) if bias.size == outputs else bias.max(initial=0)
            found[node.name] = np.maximum(found.get(node.name, 0.0), each)
    return found


def _weight_scale(
    weight: NDArray[np.float32],
    axis: int | None,
    dtype: QuantizedType,
    float16: bool,
    least: float | NDArray[np.float64],
) -> NDArray[np.float32]:
    """The scales of a weight, one per output channel (``axis``) or one for all (None), to divide it by."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None, keepdims=axis is not None)
    largest = np.where(largest == 0, largest.max(), largest)  # a channel of zeros has no range
    if isinstance(least, np.ndarray):
        least = least.reshape(largest.shape)
    return _scale(np.maximum(largest, least * LARGEST[dtype]), dtype, float16)


def _scale(largest: NDArray[np.floating[Any]], dtype: QuantizedType, float16: bool) -> NDArray[np.float32]:
    """The scale with which the largest number of ``dtype`` covers ``largest``, with ``float16`` the next float16 up.

    Near the largest float16 the scale is lower, as it would dequantise to infinity.
    """
    smallest = _SMALLEST_FLOAT16 if float16 else _SMALLEST_SCALE
    scale = np.asarray(np.maximum(largest / LARGEST[dtype], smallest), np.float32)
    if not float16:
        return scale
    scale = np.minimum(scale, np.float32(_LARGEST_FLOAT16_SCALE[dtype]))
    half = scale.astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return half.astype(np.float32)
