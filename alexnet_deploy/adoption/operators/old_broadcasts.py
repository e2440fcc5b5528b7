"""Broadcasts of opset 6 and older, which name an axis -> NumPy's, which later opsets have.

The converter of onnx 1.23 puts the new axes before the operand instead of behind it, and leaves PRelu as it is: the
answers would be wrong without an error.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in

_BROADCAST = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"))
NUMPY_SINCE = 7


def write_out_broadcasts(model: onnx.ModelProto, path: Path) -> None:
    """Give each operand that is broadcast along an axis as many axes as its place needs, in place.

    The inputs of ``model`` have sizes. InputError where the number of axes of an operand is not known.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception as exc:  # it raises whatever its C++ does
        raise InputError(f"{path}: its shapes cannot be inferred ({one_line(exc, 160)}); export it again") from exc
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    taken, body = names_in(model.graph), []
    for node in model.graph.node:
        attributes = {a.name: a.i for a in node.attribute if a.name in ("axis", "broadcast")}
        slopes = node.op_type == "PRelu"
        if slopes or (node.op_type in _BROADCAST and attributes.get("broadcast")):
            first, second = (ranks.get(name) for name in node.input[:2])
            if first is None or second is None:
                raise InputError(
                    f"{path}: node {node.name or node.op_type} ({node.op_type}) broadcasts an operand of unknown "
                    f"shape, which does not convert; export it with opset {NUMPY_SINCE} or later"
                )
            # Slopes are one per channel, axis 1; without an axis the last ones match, as in NumPy.
            axis = 1 if slopes and second == 1 and first > 1 else attributes.get("axis", first - second)
            behind = first - (axis + first if axis < 0 else axis) - second
            if behind > 0:
                name = fresh_name(taken, f"{node.input[1]}/axes")
                axes = list(range(second, second + behind))
                body.append(helper.make_node("Unsqueeze", [node.input[1]], [name], fresh_name(taken, name), axes=axes))
                node.input[1] = name
            kept = [a for a in node.attribute if a.name not in ("axis", "broadcast")]
            del node.attribute[:]
            node.attribute.extend(kept)
        body.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]
    del model.graph.node[:]
    model.graph.node.extend(copies)
