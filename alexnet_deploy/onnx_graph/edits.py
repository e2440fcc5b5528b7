"""Edits of an ONNX graph that do not change what it computes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.onnx_graph.onnx_file import OPSET, initializers

_NOT_FOLDED = frozenset((
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial",
    "DequantizeLinear",  # a quantised weight stays quantised
))  # fmt: skip


def fold_constants(model: onnx.ModelProto) -> None:
    """Turn every value that depends on constants alone into a weight, so that quantisation sees it."""
    graph = model.graph
    constants = initializers(model)
    body = []
    for node in graph.node:
        values = None
        if node.op_type not in _NOT_FOLDED and all(name in constants for name in node.input if name):
            values = _values(node, constants)
        if values is None:
            body.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            constants |= values
    del graph.node[:], graph.initializer[:]
    graph.node.extend(body)
    graph.initializer.extend(constants.values())


def _values(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> dict[str, TensorProto] | None:
    """The outputs of ``node`` for constant inputs; None if the reference evaluator cannot compute them."""
    feeds = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
    try:
        results = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, feeds)
        return {
            name: numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(node.output, results, strict=True)
        }
    except Exception:  # it can raise anything, and not folding is always right
        return None


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
        for inner in _subgraphs(node):
            rename_tensors(inner, new)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)


def tensors_read(node: onnx.NodeProto) -> set[str]:
    """Tensors that ``node`` reads, including those that its branches or its body take from outside."""
    return set(node.input).union(*(tensors_read(inner) for graph in _subgraphs(node) for inner in graph.node))


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]
