"""float32 graph -> graph whose weights alone are quantised, in memory; the activations stay as they are.

    type           op              weight                                     node
    int4           Gemm, MatMul    [K, N], a scale per 128 inputs and output  MatMul, then Add of the bias
    int8-weights   Conv            a scale per output channel                 Conv
    int8-weights   Gemm, MatMul    a scale per output                         as it is

All symmetric. TensorRT fuses the DequantizeLinear of blocks with a MatMul. Where 128 does not divide K, the weight gets
rows of zeros and a Pad adds as many zeros to the input: ONNX allows a last block that is shorter, and TensorRT-RTX
builds it, but it does not document where it then puts the blocks. A weight of one block and one output gets a second
block: TensorRT takes a single scale for that of the whole tensor, and refuses it with int4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, tensors_read
from alexnet_deploy.onnx_graph.layers import output_axis
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.rounding import INT4, INT8, best_scales, round_for_outputs, round_to_nearest
from alexnet_deploy.precision.types import QuantizedType

# Legend: K input, N output, S block of inputs with one scale per output

DENSE = ("Gemm", "MatMul")


def dense_inputs(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, TensorProto]) -> dict[str, int]:
    """The input tensors of the dense layers among ``nodes``, and the size of their last axis."""
    return {
        node.input[0]: weights[node.input[1]].dims[1 - output_axis(node)] for node in nodes if node.op_type in DENSE
    }


@dataclass(frozen=True, slots=True)
class _Edit:
    """A graph that gets new nodes and constants."""

    graph: onnx.GraphProto
    weights: Mapping[str, TensorProto]
    taken: set[str]
    made: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Tensors that several nodes can read, by what they are made of."""

    def fresh(self, wanted: str) -> str:
        return fresh_name(self.taken, wanted)

    def add(self, wanted: str, values: NDArray[np.generic]) -> str:
        """A new constant; its name."""
        name = self.fresh(wanted)
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name


class WeightQuantiser:
    """Rounds the weights of one model, each once, and inserts them into the model or into copies of it."""

    def __init__(self, dtype: QuantizedType, moments: Mapping[str, Sequence[NDArray[np.float32]]] | None) -> None:
        """``moments`` are those of ``moments.second_moments`` for ``dense_inputs``; None: round to nearest."""
        self._steps = INT4 if dtype == "int4" else INT8
        self._moments = moments or {}
        self._rounded: dict[tuple[str, ...], tuple[NDArray[np.int8], NDArray[np.float32]]] = {}

    def insert(self, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
        """Quantise the weights of ``nodes`` of ``model``, in place; ``calibrate`` refuses those beyond float16."""
        graph = model.graph
        edit = _Edit(graph, initializers(model), names_in(graph))
        chosen = {node.name for node in nodes}
        body: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.name not in chosen:
                body.append(node)
            elif self._steps is INT4:
                body += self._in_blocks(node, edit)
            else:
                body += self._by_output(node, edit)
        used = {value.name for value in graph.output}.union(*map(tensors_read, body))
        kept = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
        body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]  # the graph is cleared
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(body)
        graph.initializer.extend(kept)

    def _in_blocks(self, node: onnx.NodeProto, edit: _Edit) -> list[onnx.NodeProto]:
        """The nodes that take the place of a dense layer; the product keeps its name, and the last one its output.

        ``onnx_graph.layers`` knows the Pad and the Add by their names.
        """
        x, w = node.input[:2]
        rounded_KN, scale_SN = self._rounding(node, edit.weights[w])
        assert INT4.block is not None
        missing = -len(rounded_KN) % INT4.block
        if scale_SN.size == 1:
            missing += INT4.block
            scale_SN = np.repeat(scale_SN, 2, axis=0)
        body = []
        key = self._key(node)
        if key not in edit.made:
            padded_KN = np.pad(rounded_KN, ((0, missing), (0, 0))).astype(ml_dtypes.int4)
            operands = [edit.add(f"{w}/q", padded_KN), edit.add(f"{w}/scale", scale_SN)]
            edit.made[key] = edit.fresh(f"{w}/dq")
            name = edit.fresh(f"{w}/DequantizeLinear")
            body.append(
                helper.make_node("DequantizeLinear", operands, [edit.made[key]], name, axis=0, block_size=INT4.block)
            )
        if missing:
            padded = ("pad", x, str(missing))
            if padded not in edit.made:
                amounts = [edit.add(f"{x}/padding", np.array([0, missing])), ""]
                amounts.append(edit.add(f"{x}/axis", np.array([-1])))
                edit.made[padded] = edit.fresh(f"{x}/padded")
                body.append(helper.make_node("Pad", [x, *amounts], [edit.made[padded]], edit.fresh(f"{x}/Pad")))
            x = edit.made[padded]
        bias = node.input[2] if len(node.input) > 2 else ""
        product = edit.fresh(f"{node.output[0]}/product") if bias else node.output[0]
        body.append(helper.make_node("MatMul", [x, edit.made[key]], [product], node.name))
        if bias:
            body.append(helper.make_node("Add", [product, bias], list(node.output), edit.fresh(f"{node.name}/Add")))
        return body

    def _by_output(self, node: onnx.NodeProto, edit: _Edit) -> list[onnx.NodeProto]:
        """A DequantizeLinear and the layer, which reads it."""
        w, axis, key = node.input[1], output_axis(node), self._key(node)
        body = []
        if key not in edit.made:
            rounded_KN, scale_SN = self._rounding(node, edit.weights[w])
            dims = edit.weights[w].dims
            values = np.ascontiguousarray(rounded_KN if axis else rounded_KN.T).reshape(dims)
            operands = [edit.add(f"{w}/q", values), edit.add(f"{w}/scale", scale_SN.reshape(-1))]
            edit.made[key] = edit.fresh(f"{w}/dq")
            name = edit.fresh(f"{w}/DequantizeLinear")
            body.append(helper.make_node("DequantizeLinear", operands, [edit.made[key]], name, axis=axis))
        node.input[1] = edit.made[key]
        return [*body, node]

    def _moments_of(self, node: onnx.NodeProto) -> Sequence[NDArray[np.float32]] | None:
        return self._moments.get(node.input[0]) if node.op_type in DENSE else None

    def _key(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """What a rounded weight depends on: layers that share a weight share it, if their inputs play no part."""
        return node.input[1], "" if self._moments_of(node) is None else node.input[0], str(output_axis(node))

    def _rounding(self, node: onnx.NodeProto, tensor: TensorProto) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """The rounded weight ``[K, N]`` and its scales ``[S, N]``."""
        axis, key = output_axis(node), self._key(node)
        if key not in self._rounded:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            weight_KN = values if axis else values.reshape(len(values), -1).T
            weight_KN = np.ascontiguousarray(weight_KN)
            moments = self._moments_of(node)
            power_K = None if moments is None else np.concatenate([np.diag(moment) for moment in moments])
            scale_SN = best_scales(weight_KN, self._steps, power_K)
            if moments is None:
                rounded_KN = round_to_nearest(weight_KN, scale_SN, self._steps)
            else:
                rounded_KN = round_for_outputs(weight_KN, scale_SN, self._steps, moments)
            self._rounded[key] = rounded_KN, scale_SN
        return self._rounded[key]
