"""Changes to an ONNX model after which it may compute something else, each in place; it returns what was changed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.graph_rewrites import Change, add_weight, tensor_names
from tests.fuzz.mutate import ODD_INTS


def noted_shapes(model: onnx.ModelProto, rng: random.Random) -> str:
    name = rng.choice([n for node in model.graph.node for n in node.output])
    model.graph.value_info.append(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rng.choice((1, 7, 2**40)), "x"])
    )
    return f"a wrong shape noted for {name}"


def change_attribute(model: onnx.ModelProto, rng: random.Random) -> str:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return "no attribute"
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    match rng.randrange(5):
        case 0:
            node.attribute.remove(attribute)
            return f"{node.op_type} without an attribute"
        case 1:
            attribute.name = rng.choice(("axis", "to", "group", "unknown", ""))
        case 2:
            attribute.type = rng.randrange(0, 15)
        case _:
            number = rng.choice((*ODD_INTS[:-2], 3, 4, -2))
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = min(number, 2**63 - 1)
            elif attribute.type == onnx.AttributeProto.FLOAT:
                attribute.f = rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
            else:
                attribute.i = min(number, 2**63 - 1)
    return f"{node.op_type}.{attribute.name} = {helper.printable_attribute(attribute)[:60] if attribute.name else ''}"


def change_operator(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    old = node.op_type
    node.op_type = rng.choice(
        ("Relu", "Sigmoid", "Softmax", "LogSoftmax", "Identity", "DynamicQuantizeLinear", "MeanVarianceNormalization",
         "Sum", "Loop", "If", "RandomNormalLike", "Nope", "Einsum", "ArgMax", "Cast", "ConstantOfShape", "Size",
         "NonZero", "Flatten", "Exp")
    )  # fmt: skip
    if rng.random() < 0.2:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "nowhere", "ai.onnx"))
    return f"{old} is {node.domain} {node.op_type}"


def change_edges(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    match rng.randrange(6):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice((*tensor_names(model), "", "nobody"))
            return f"another input of {node.op_type}"
        case 1:
            node.output[0] = rng.choice((*tensor_names(model), ""))
            return f"another output of {node.op_type}"
        case 2:
            model.graph.node.remove(node)
            return f"{node.op_type} removed"
        case 3:
            model.graph.node.append(node)
            return f"{node.op_type} twice"
        case 4:
            nodes = list(model.graph.node)
            rng.shuffle(nodes)
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
            del model.graph.node[:]
            model.graph.node.extend(copies)
            return "nodes in another order"
        case _:
            del node.input[-1:]
            return f"an input fewer for {node.op_type}"


def change_weight(model: onnx.ModelProto, rng: random.Random) -> str:
    if not model.graph.initializer:
        return "no weights"
    weight = rng.choice(model.graph.initializer)
    name = weight.name
    if weight.data_location == TensorProto.EXTERNAL:
        entry = rng.choice(weight.external_data)
        entry.value = rng.choice((*map(str, ODD_INTS), "", "x", "../weights.bin", "model.onnx", "a\0b"))
        return f"weight {name} has {entry.key} {entry.value!r}"
    match rng.randrange(8):
        case 0:
            weight.data_type = rng.randrange(0, 25)
        case 1 if weight.dims:
            weight.dims[rng.randrange(len(weight.dims))] = rng.choice((0, 1, -1, 2**40, 2**62, 3))
        case 2:
            weight.raw_data = weight.raw_data[: rng.randrange(len(weight.raw_data) + 1)]
        case 3:
            model.graph.initializer.remove(weight)
        case 4:
            model.graph.initializer.append(weight)
        case 5:
            values = numpy_helper.to_array(weight)
            factor = rng.choice((0, -1, 1e30, 1e-30, float("nan"), float("inf"), 1000))
            with np.errstate(all="ignore"):
                weight.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
            return f"weight {name} times {factor}"
        case 6:
            kind = rng.choice((np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_))
            with np.errstate(all="ignore"):
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(kind), name))
            return f"weight {name} as {kind.__name__}"
        case _:
            weight.data_location = TensorProto.EXTERNAL
            entries = {"location": rng.choice(("../x", "/etc/passwd", "model.onnx", "nothing", "", "a\0b", ".")),
                       "offset": str(rng.choice(ODD_INTS)), "length": str(rng.choice(ODD_INTS))}  # fmt: skip
            for key, value in entries.items():
                weight.external_data.add(key=key, value=value)
            if rng.random() < 0.7:
                weight.ClearField("raw_data")
    return f"weight {name} changed"


def change_interface(model: onnx.ModelProto, rng: random.Random) -> str:
    value = rng.choice((*model.graph.input, *model.graph.output))
    tensor = value.type.tensor_type
    match rng.randrange(6):
        case 0:
            tensor.elem_type = rng.randrange(0, 25)
        case 1 if tensor.shape.dim:
            dim = rng.choice(tensor.shape.dim)
            dim.dim_value = rng.choice((0, -1, 1, 2, 3, 5, 2**40, 2**62, 224))
        case 2 if tensor.shape.dim:
            rng.choice(tensor.shape.dim).dim_param = rng.choice(("N", "", "x", "batch_size*2"))
        case 3:
            tensor.ClearField("shape")
        case 4:
            tensor.shape.dim.add().dim_value = rng.choice((1, 3))
        case _:
            name = rng.choice(tensor_names(model))
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            return f"also an output: {name}"
    return f"{value.name} is {str(tensor).split()[:20]}"


def change_ends(model: onnx.ModelProto, rng: random.Random) -> str:
    """More nodes at the end, as exporters add them."""
    graph = model.graph
    output = graph.output[0]
    inner = "before_end"
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == output.name:
                node.output[i] = inner
    chains: list[list[tuple[str, dict[str, Any]]]] = [
        [("Softmax", {"axis": 1})], [("Softmax", {"axis": -1}), ("Mul", {})], [("LogSoftmax", {"axis": 1})],
        [("Softmax", {"axis": 1}), ("Softmax", {"axis": 1})], [("Exp", {}), ("Identity", {})], [("Sigmoid", {})],
        [("Softmax", {"axis": 0})],
        [("Relu", {})], [("Mul", {})], [("Softmax", {"axis": 1}), ("Log", {})], [("Tanh", {})],
        [("Softmax", {"axis": 1}), ("Cast", {"to": TensorProto.FLOAT16}), ("Cast", {"to": TensorProto.FLOAT})],
        [("LpNormalization", {"axis": 1})], [("Sigmoid", {}), ("Mul", {})], [("Unsqueeze", {}), ("Squeeze", {})],
    ]  # fmt: skip
    chain = rng.choice(chains)
    for index, (op, attributes) in enumerate(chain):
        last = index == len(chain) - 1
        inputs = [inner]
        if op == "Mul":
            inputs.append("hundred")
            add_weight(model, np.array(100, np.float32), "hundred")
        if op in ("Unsqueeze", "Squeeze"):
            inputs.append("axis")
            add_weight(model, np.array([1]), "axis")
        inner = output.name if last else f"end_{index}"
        graph.node.append(helper.make_node(op, inputs, [inner], **attributes))
    return "ends in " + ", ".join(op for op, _ in chain)


def change_versions(model: onnx.ModelProto, rng: random.Random) -> str:
    match rng.randrange(4):
        case 0:
            model.ir_version = rng.choice((0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 99, 2**40))
        case 1 | 2:
            model.opset_import[0].version = rng.choice(
                (0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 22, 23, 25, 26, 99)
            )
        case _:
            model.opset_import.add(
                domain=rng.choice(("com.microsoft", "ai.onnx", "", "nowhere")), version=rng.choice((1, 21, 99))
            )
    return f"IR {model.ir_version}, opsets {[(o.domain, o.version) for o in model.opset_import]}"


def add_structure(model: onnx.ModelProto, rng: random.Random) -> str:
    """Functions, subgraphs and other parts that classifiers rarely have."""
    graph = model.graph
    name = rng.choice([n for node in graph.node for n in node.output])
    match rng.randrange(6):
        case 0:  # a function that calls itself, or twice the next one
            opsets = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
            calls = [helper.make_node("F", ["a"], ["b"], domain="f")] * rng.choice((1, 2))
            model.functions.append(helper.make_function("f", "F", ["a"], ["b"], calls, opsets))
            model.opset_import.append(helper.make_opsetid("f", 1))
            graph.node.append(helper.make_node("F", [name], ["of_function"], domain="f"))
            return "a function that calls itself"
        case 1:
            branch = helper.make_graph([helper.make_node("Identity", [name], ["inside"])], "b", [],
                                       [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)])  # fmt: skip
            graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
            graph.node.append(helper.make_node("If", ["condition"], ["of_if"], then_branch=branch, else_branch=branch))
            return "an If"
        case 2:
            model.metadata_props.add(key="alexnet_deploy.contract", value=rng.choice(("{}", "[", "", '{"schema": 1}')))
            return "a contract that is none"
        case 3:
            model.metadata_props.add(key="task", value=rng.choice(("classify", "detect", "\x1b")))
            model.metadata_props.add(
                key="names", value=rng.choice(("{0: 'a'}", "{0: __import__('os')}", "{" * 5000, ""))
            )
            model.metadata_props.add(key="imgsz", value=rng.choice(("[12, 12]", "12", "[0, 0]", "[9999, 9999]", "x")))
            return "metadata of ultralytics"
        case 4:
            model.training_info.add().algorithm.name = "t"
            graph.quantization_annotation.add(tensor_name=name)
            return "training and quantisation notes"
        case _:
            graph.sparse_initializer.add()
            return "an empty sparse weight"


CHANGING: tuple[Change, ...] = (
    change_attribute, change_attribute, change_operator, change_edges, change_edges, change_weight, change_weight,
    change_interface, change_interface, change_ends, change_ends, change_versions, add_structure, noted_shapes,
)  # fmt: skip
"""Changes after which the model may compute something else, or nothing."""
