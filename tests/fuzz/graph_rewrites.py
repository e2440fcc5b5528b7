"""Changes to an ONNX model that keep what it computes, each in place; it returns what was changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto, random.Random], str]

OURS = (
    "pixels", "logits", "pixels/mean", "pixels/scale", "pixels/std", "pixels/nchw", "pixels/float", "x/scale", "w/fp16",
    "w/int8", "logits/fp32", "pixels/cast", "a\nb", "\x1b[31m", "é", "x" * 300, "a b", "/", "'", "%s", "{}",
)  # fmt: skip
"""Names that ours may take, or that are hard to print."""
_ENDINGS = ("scale", "fp16", "int8", "cast", "zero_point", "QuantizeLinear", "quantized")


def tensor_names(model: onnx.ModelProto) -> list[str]:
    """Every tensor of the graph."""
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.initializer)]
    return [*names, *(name for node in graph.node for name in node.output if name)]


def add_weight(model: onnx.ModelProto, values: NDArray[Any], name: str) -> None:
    """As its IR wants it: before 4 a weight is an input as well. A name that is there stays."""
    if any(weight.name == name for weight in model.graph.initializer):
        return
    weight = numpy_helper.from_array(values, name)
    model.graph.initializer.append(weight)
    if model.ir_version < 4:
        model.graph.input.append(helper.make_tensor_value_info(name, weight.data_type, weight.dims))


def rename_tensor(model: onnx.ModelProto, rng: random.Random) -> str:
    graph = model.graph
    old, new = rng.choice(tensor_names(model)), rng.choice(OURS)
    if rng.random() < 0.5:  # as converters derive names from others
        new = f"{rng.choice(tensor_names(model))}/{rng.choice(_ENDINGS)}"
    if new in tensor_names(model):
        return "no rename"
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    return f"tensor {old!r} is {new!r}"


def rename_node(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    node.name = rng.choice((*OURS, "", rng.choice(model.graph.node).name))
    return f"a node is called {node.name!r}"


def add_dead_ends(model: onnx.ModelProto, rng: random.Random) -> str:
    name = rng.choice(tensor_names(model))
    match rng.randrange(4):
        case 0:
            model.graph.node.append(helper.make_node("Identity", [name], [f"unused_{len(model.graph.node)}"]))
        case 1:
            add_weight(model, np.zeros(3, np.float32), f"unused_weight_{len(model.graph.initializer)}")
        case 2:
            model.doc_string = "x" * 10_000
            model.metadata_props.add(key=f"author {len(model.metadata_props)}", value="\x1b[31m")
        case _:
            model.producer_name = rng.choice(OURS)
            model.graph.name = rng.choice(OURS) or "g"
    return "something unused"


_SIZES = dict.fromkeys(("Gemm", "MatMul", "Flatten", "Softmax"), 2) | dict.fromkeys(
    ("Conv", "Relu", "Clip", "MaxPool"), 4
)
"""Number of axes of what an operator gives."""


def pass_through(model: onnx.ModelProto, rng: random.Random) -> str:
    """Nodes that change nothing, on the way from one node to the next."""
    graph = model.graph
    at = rng.randrange(len(graph.node))
    node = graph.node[at]
    op = "Identity" if node.op_type == "Constant" else rng.choice(("Identity", "Dropout", "Cast", "Reshape", "Neg"))
    inner = f"between_{len(graph.node)}"
    old, node.output[0] = node.output[0], inner
    new = {
        "Identity": [helper.make_node("Identity", [inner], [old])],
        "Dropout": [helper.make_node("Dropout", [inner], [old])],
        "Cast": [helper.make_node("Cast", [inner], [old], to=TensorProto.FLOAT)],
        "Reshape": [helper.make_node("Reshape", [inner, f"{inner}_s"], [old])],
        "Neg": [helper.make_node("Neg", [inner], [f"{inner}_n"]), helper.make_node("Neg", [f"{inner}_n"], [old])],
    }[op]
    if op == "Reshape":  # to the same sizes
        if node.op_type not in _SIZES:
            new = [helper.make_node("Identity", [inner], [old])]
        else:
            add_weight(model, np.zeros(_SIZES[node.op_type], np.int64), f"{inner}_s")
    for offset, extra in enumerate(new):
        graph.node.insert(at + 1 + offset, extra)
    return f"{op} after {node.op_type}"


KEEPING: tuple[Change, ...] = (rename_tensor, rename_node, add_dead_ends, pass_through)
"""Changes that keep what the model computes."""
