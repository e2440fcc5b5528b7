"""The theoretical cost of the layers of an ONNX graph: multiplications, and elements read and written.

Only Conv, ConvTranspose, Gemm and MatMul are counted as arithmetic, two operations per multiply-accumulate; additions
of a bias, comparisons of a pooling and the like cost nothing compared with the memory they move.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.element_types import COMPUTE_OPS
from alexnet_deploy.onnx_graph.onnx_file import graph_inputs, layer_of, load_onnx

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_SHAPE_BYTES = 1024
"""Initializers up to this size stay for shape inference (a Reshape's target); larger ones are weights."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements that a group of nodes reads from outside, has as constants, and writes for others."""

    inputs: int
    weights: int
    outputs: int


class Costs:
    """The graph of one ONNX file at one batch size."""

    def __init__(self, onnx_path: Path, batch: int) -> None:
        """InputError if the file cannot be read, or its shapes cannot be inferred."""
        graph = _with_shapes(load_onnx(onnx_path), batch)
        self._input = graph_inputs(onnx.ModelProto(graph=graph))[0].name
        self._outputs = {value.name for value in graph.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self._shapes = {v.name: _dims(v) for v in values} | {w.name: tuple(w.dims) for w in graph.initializer}
        unknown = [n.name for n in graph.node if not all(math.prod(self._shapes.get(name, (0,))) for name in n.output)]
        if unknown:
            raise InputError(f"{onnx_path}: the output shape of {unknown[0]} cannot be inferred; export it again")
        self._constant = {tensor.name for tensor in graph.initializer}
        self.nodes: dict[str, onnx.NodeProto] = {}
        """By name (a nameless node by its output), in graph order."""
        self._makers: dict[str, str] = {}
        self._readers: dict[str, list[str]] = {}
        for node in graph.node:
            name = node.name or node.output[0]
            self.nodes[name] = node
            self._makers.update(dict.fromkeys(node.output, name))
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(name)
            if all(tensor in self._constant for tensor in node.input if tensor):
                self._constant.update(node.output)

    def find(self, source: str) -> str | None:
        """The node that a runtime means by ``source``: the name of a node or tensor, with or without a suffix."""
        for cut in range(len(source), 0, -1):
            if cut == len(source) or source[cut] in "/_":
                known = source[:cut] if source[:cut] in self.nodes else self._makers.get(source[:cut])
                if known is not None:
                    return known
        return None

    def before(self, name: str) -> str | None:
        """The node that computes the first non-constant input of node ``name``; None at the graph's input."""
        varying = (tensor for tensor in self.nodes[name].input if tensor not in self._constant)
        return next((self._makers[tensor] for tensor in varying if tensor in self._makers), None)

    def readers(self, name: str) -> list[str]:
        """The nodes that read the outputs of node ``name``."""
        return [reader for tensor in self.nodes[name].output for reader in self._readers.get(tensor, ())]

    def layer(self, name: str) -> str:
        """The PyTorch module that node ``name`` belongs to."""
        return layer_of(self.nodes[name])

    def multiplies(self, name: str) -> bool:
        """Whether the arithmetic of node ``name`` counts."""
        return self.nodes[name].op_type in COMPUTE_OPS

    def converts(self, name: str) -> bool:
        """Whether a node only changes types between layers; the Cast of the pixels is part of a layer."""
        node = self.nodes[name]
        return node.op_type in CONVERSIONS and self._input not in node.input

    def flops(self, names: Iterable[str]) -> int:
        """2 x multiply-accumulates of the named nodes."""
        return sum(self._flops(self.nodes[name]) for name in names)

    def elements(self, names: Collection[str]) -> Elements:
        """The elements that the named nodes, fused into one kernel, read and write."""
        inputs = {tensor for name in names for tensor in self.nodes[name].input if tensor}
        made = {tensor for name in names for tensor in self.nodes[name].output}
        left = {
            tensor for tensor in made if tensor in self._outputs or not set(self._readers.get(tensor, ())) <= set(names)
        }
        return Elements(
            self._count(inputs - made - self._constant),
            self._count((inputs & self._constant) - made),
            self._count(left),
        )

    def _flops(self, node: onnx.NodeProto) -> int:
        if node.op_type not in COMPUTE_OPS:
            return 0
        x, w = (self._shapes[name] for name in node.input[:2])
        if node.op_type == "ConvTranspose":
            return int(2 * math.prod(x) * math.prod(w[1:]))
        if node.op_type == "Conv":  # its weights are [M, C / groups, ...], which includes the groups
            inner = math.prod(w[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            inner = x[0] if transposed else x[-1]
        return int(2 * inner * math.prod(self._shapes[node.output[0]]))

    def _count(self, tensors: Iterable[str]) -> int:
        return sum(math.prod(self._shapes.get(tensor, ())) for tensor in tensors)


def multiplies(op: str) -> bool:
    """Whether a runtime's own operator (``Convolution``, ``FusedGemm``, ``QLinearConv``) is arithmetic."""
    return re.search(r"Conv(?!ert)|Gemm|MatMul|FullyConnected", op) is not None


def _with_shapes(model: onnx.ModelProto, batch: int) -> onnx.GraphProto:
    for tensor in model.graph.initializer:
        if tensor.ByteSize() > _SHAPE_BYTES:
            # Shape inference needs only the dimensions, and would copy the values twice.
            for stored in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(stored)
    del model.graph.value_info[:]
    graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True).graph


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
