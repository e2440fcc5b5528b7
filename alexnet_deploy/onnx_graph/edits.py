"""Edits of an ONNX graph that do not change what it computes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.onnx_graph.limits import subgraphs
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.onnx_graph.sizes import SMALL_BYTES

_LINEAR = frozenset((
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Compress", "Concat", "Constant",
    "ConstantOfShape", "Cos", "CumSum", "DepthToSpace", "Div", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min",
    "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round",
    "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub",
    "Sum", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
))  # fmt: skip
"""Operators that the reference evaluator computes in time proportional to the elements that it reads and writes."""
_NOT_FOLDED = frozenset((
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout",
    "DequantizeLinear",  # a quantised weight stays quantised
))  # fmt: skip
_MAX_PRODUCTS = 10**9
"""Multiply-adds of a MatMul or Gemm of weights: a second in NumPy."""
_MAX_PAIRS = 10**6
"""Of elements read or written, for other operators: some are loops in Python, a microsecond per step."""
_MAX_GROWTH, _ALWAYS_GROWS = 4, 1 << 20
"""A result holds at most four times the elements of its operands, or a million: Expand, Tile, Range make any size."""
_MAX_FOLDED = 1 << 31
"""Elements read and written for one model: 8 GiB in float32, some seconds."""


_FEW = 10
"""Numbers that ``fresh_name`` tries in turn."""


def fold_constants(model: onnx.ModelProto) -> None:
    """Turn values that depend on constants alone into weights, so that quantisation sees them.

    The size of a result is known before it is computed: what would cost much memory or time stays a node.
    """
    graph = model.graph
    constants = initializers(model)
    body = []
    remaining = _MAX_FOLDED
    for node in graph.node:
        values = None
        if node.op_type not in _NOT_FOLDED and all(name in constants for name in node.input if name):
            results = _results(node, constants, model.opset_import)
            work = _work(node, constants, results)
            if work is not None and work <= remaining:
                remaining -= work
                values = _values(node, constants, results, model.opset_import)
        if values is None:
            body.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            constants |= values
    del graph.node[:], graph.initializer[:]
    graph.node.extend(body)
    graph.initializer.extend(constants.values())


def _results(
    node: onnx.NodeProto, constants: dict[str, TensorProto], opsets: Iterable[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TypeProto.Tensor]:
    """Types and shapes of the outputs of ``node`` by shape inference; empty where they are no tensors or unknown."""
    operands = [constants[name] for name in dict.fromkeys(node.input) if name]
    known = [
        t if t.ByteSize() <= SMALL_BYTES else TensorProto(name=t.name, data_type=t.data_type, dims=t.dims)
        for t in operands
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    single = helper.make_model(helper.make_graph([node], "single", [], outputs, known), opset_imports=list(opsets))
    try:
        inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph.output
    except Exception:  # it can raise anything, and not folding is always right
        return {}
    found = {value.name: value.type.tensor_type for value in inferred if value.type.HasField("tensor_type")}
    return found if len(found) == len(outputs) and all(t.HasField("shape") for t in found.values()) else {}


def _work(
    node: onnx.NodeProto, constants: dict[str, TensorProto], results: dict[str, onnx.TypeProto.Tensor]
) -> int | None:
    """Elements that computing ``node`` reads and writes; None where that is unknown or too much."""
    operands = [int(math.prod(constants[name].dims)) for name in node.input if name]
    read, written = sum(operands), 0
    for result in results.values():
        dims = result.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            written += int(math.prod(dim.dim_value for dim in dims))
        elif node.op_type in ("NonZero", "Compress"):
            written += read * len(dims) * max(1, len(constants[node.input[0]].dims))
        else:
            return None
    if not results or any(node_graph for node_graph in subgraphs(node)):
        return None
    if written > max(_MAX_GROWTH * read, _ALWAYS_GROWS):
        return None
    if node.op_type in ("MatMul", "Gemm"):
        inner = max(constants[node.input[0]].dims, default=1)
        return read + written if written * inner <= _MAX_PRODUCTS else None
    pairs = max(written * max(operands, default=1), math.prod(max(count, 1) for count in operands))
    if node.op_type not in _LINEAR and pairs > _MAX_PAIRS:
        return None
    return read + written


def _values(
    node: onnx.NodeProto,
    constants: dict[str, TensorProto],
    results: dict[str, onnx.TypeProto.Tensor],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> dict[str, TensorProto] | None:
    """The outputs of ``node`` for constant inputs; None if the reference evaluator does not give what it should."""
    feeds = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in opsets}
    try:
        with np.errstate(all="ignore"):  # a division by 0 gives what it gives in the graph
            computed = ReferenceEvaluator(node, opsets=versions).run(None, feeds)
        values = {
            name: numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(node.output, computed, strict=True)
            if name
        }
    except Exception:  # it can raise anything, and not folding is always right
        return None
    for name, value in values.items():
        shape = results[name].shape.dim
        as_inferred = [
            dim.dim_value if dim.HasField("dim_value") else n for dim, n in zip(shape, value.dims, strict=False)
        ]
        if value.data_type != results[name].elem_type or as_inferred != list(value.dims):
            return None
    return values


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that nothing reads."""
    used = {value.name for value in graph.output}
    alive = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            alive.append(onnx.NodeProto.FromString(node.SerializeToString()))
            used.update(tensors_read(node))
    weights = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(alive))
    graph.initializer.extend(weights)


def rename_tensors(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    """Rename tensors (old name: new name) wherever the graph writes or reads them."""
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            rename_tensors(inner, new)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)


def tensors_read(node: onnx.NodeProto) -> set[str]:
    """Tensors that ``node`` reads, including those that its branches or its body take from outside."""
    return set(node.input).union(*(tensors_read(inner) for graph in subgraphs(node) for inner in graph.node))


def readers_in(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, once each, in graph order; a branch or a body counts for its node."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in tensors_read(node):
            found.setdefault(name, []).append(node)
    return found


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or a node in a graph and its subgraphs."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}
    for node in graph.node:
        found.update((node.name, *node.input, *node.output))
        for inner in subgraphs(node):
            found |= names_in(inner)
    return found


def fresh_name(taken: set[str], wanted: str) -> str:
    """``wanted``, or ``wanted_2`` and so on where a foreign graph already has that name; the name is then taken."""
    name, number = wanted, 2
    while name in taken:
        # After a few numbers far ahead: a graph may ask for the same name at each of its nodes.
        name, number = f"{wanted}_{number}", number + (1 if number < _FEW else len(taken))
    taken.add(name)
    return name


def free_names(graph: onnx.GraphProto, wanted: Iterable[str]) -> None:
    """Rename the tensors and nodes of a foreign graph that have a name in ``wanted``: we give these to our own."""
    taken = names_in(graph)
    mine = taken.intersection(wanted)
    taken.update(wanted)
    new = {name: fresh_name(taken, f"model/{name}") for name in sorted(mine)}
    rename_tensors(graph, new)
    for node in graph.node:
        node.name = new.get(node.name, node.name)
