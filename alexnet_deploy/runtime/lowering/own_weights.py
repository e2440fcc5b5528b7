"""A graph in which no two nodes read the same stored int8 weight."""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto

from alexnet_deploy.onnx_graph.edits import fresh_name, names_in
from alexnet_deploy.onnx_graph.onnx_file import initializers

_COPIED = (0, 2)
"""Of the operands of a DequantizeLinear: its numbers and its zero points."""


def own_weights(model: onnx.ModelProto) -> None:
    """Copy what several nodes read of int8 weights, in place; what only one reads is not copied.

    ONNX Runtime 1.32 makes uint8 of a weight and of its zero points once for each node that reads them, and ends in an
    error the second time.
    """
    graph = model.graph
    constants, taken = initializers(model), names_in(graph)
    int8 = {name for name, tensor in constants.items() if tensor.data_type == TensorProto.INT8}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    used: set[str] = set()
    body: list[NodeProto] = []
    for node in graph.node:
        for index, read in enumerate(node.input):
            source = makers.get(read)
            if source is None or source.input[0] not in int8:
                continue
            if read in used:
                source = NodeProto.FromString(source.SerializeToString())
                source.name = fresh_name(taken, source.name)
                node.input[index] = source.output[0] = fresh_name(taken, read)
                body.append(source)
            for number in _COPIED:
                name = source.input[number] if number < len(source.input) else ""
                if name in used and name in int8:
                    copy = TensorProto.FromString(constants[name].SerializeToString())
                    copy.name = source.input[number] = fresh_name(taken, name)
                    graph.initializer.append(copy)
            used.update((read, *source.input))
        body.append(node)
    body = [NodeProto.FromString(node.SerializeToString()) for node in body]  # the graph is cleared
    del graph.node[:]
    graph.node.extend(body)
