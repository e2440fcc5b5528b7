"""The values of a layer's weight, whatever form a graph keeps it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.onnx_graph.layers import LAYERS
from alexnet_deploy.onnx_graph.onnx_file import initializers

_KEEPS = frozenset(("Cast", "Constant", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose"))
"""Operators between a stored weight and the layer that reads it. Each costs about as much as it writes."""


@dataclass(frozen=True, slots=True)
class LayerValues:
    """A layer (Conv, Gemm, MatMul) with what it multiplies by and adds, as float32.

    A quantised weight has the values that the layer computes with. ``bias`` is None where the layer has none.
    """

    node: onnx.NodeProto
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def layers_with_weights(model: onnx.ModelProto) -> list[LayerValues]:
    """The layers in graph order; products of two activations are left out."""
    producer = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in LAYERS and (weight := constant(model, node.input[1], producer)) is not None:
            found.append(LayerValues(node, weight, _bias(model, node, producer)))
    return found


def _bias(
    model: onnx.ModelProto, layer: onnx.NodeProto, producer: dict[str, onnx.NodeProto]
) -> NDArray[np.float32] | None:
    if layer.op_type != "MatMul":
        return constant(model, layer.input[2], producer) if len(layer.input) > 2 else None
    readers = [node for node in model.graph.node if layer.output[0] in node.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    others = [name for name in readers[0].input if name != layer.output[0]]
    return constant(model, others[0], producer) if others else None


def constant(model: onnx.ModelProto, tensor: str, producer: dict[str, onnx.NodeProto]) -> NDArray[np.float32] | None:
    """The values of ``tensor`` as float32; None where they depend on the input, or on more than the type of a weight.

    ``producer`` is the node that writes each tensor.
    """
    weights = initializers(model)
    if tensor in weights:
        return np.asarray(numpy_helper.to_array(weights[tensor]), np.float32)
    needed: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if not name or name in needed:
            continue
        needed.add(name)
        if name not in weights:
            if name not in producer or producer[name].op_type not in _KEEPS:
                return None
            waiting += list(producer[name].input)
    chosen = [node for node in model.graph.node if not needed.isdisjoint(node.output)]  # in an order that runs
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in chosen]
    kept = [onnx.TensorProto.FromString(weights[name].SerializeToString()) for name in needed & weights.keys()]
    graph = helper.make_graph(nodes, "weight", [], [onnx.ValueInfoProto(name=tensor)], kept)
    found: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(model.opset_import))).run(None, {})
    return np.asarray(found[0], np.float32)
