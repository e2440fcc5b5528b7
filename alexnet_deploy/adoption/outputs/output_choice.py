"""The one tensor of a foreign graph that holds the class scores: an output, or what stands before ZipMap or ArgMax."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.edits import remove_unused
from alexnet_deploy.onnx_graph.onnx_file import graph_inputs
from alexnet_deploy.onnx_graph.sizes import without_weights

SHAPE_OPS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Dropout"))
"""They move numbers, and change none of them in inference."""
_RANKING = frozenset(("ArgMax", "TopK"))
_ACTIVATIONS = frozenset(("Softmax", "LogSoftmax", "Sigmoid"))
_FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16))

Producers = dict[str, onnx.NodeProto]


def producers_of(graph: onnx.GraphProto) -> Producers:
    """The node that computes each tensor of ``graph``."""
    return {name: node for node in graph.node for name in node.output if name}


def choose_output(model: onnx.ModelProto, path: Path, output_name: str | None) -> None:
    """Leave one output in ``model``, the float tensor with the class scores, and remove what only others need.

    Of several outputs, ``output_name`` names one. None takes the only one with scores: names of classes, class numbers
    and the probabilities of the same scores do not count. Works at any opset. Raises UsageError for a name that the
    model lacks, InputError where the choice is open or an output holds no scores.
    """
    graph = model.graph
    producers = producers_of(graph)
    values = {value.name: value for value in graph.output}
    if output_name is not None:
        if output_name not in values:
            raise UsageError(f"`output_name` {output_name}: {path} has no such output; choose one of {_listing(model)}")
        values = {output_name: values[output_name]}
    direct = {tensor: None for value in values.values() if (tensor := _scores(producers, value)) is not None}
    ranked = {tensor: None for value in values.values() if (tensor := _before_ranking(producers, value)) is not None}
    found = list(direct or ranked)
    if not found:
        raise InputError(f"{path}: {_why_not(next(iter(values.values())))}")
    origins = {_origin(producers, tensor) for tensor in found}
    activations = {op for tensor in found if (op := _activation(producers, tensor)) is not None}
    if len(found) > 1 and (len(origins) > 1 or len(activations) > 1):
        raise InputError(
            f"{path}: has {len(found)} outputs that may hold the class scores ({_listing(model)}); "
            "choose one with `output_name`"
        )
    # Of scores and their probabilities, the probabilities: they show which activation belongs to the model.
    chosen = next((tensor for tensor in found if _origin(producers, tensor) != _unshaped(producers, tensor)), found[0])
    if [chosen] == [value.name for value in graph.output]:
        return
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    known = {value.name: value for value in (*inferred.output, *inferred.value_info)}
    output = known.get(chosen, helper.make_tensor_value_info(chosen, TensorProto.FLOAT, None))
    inputs = {value.name for value in graph_inputs(model)}
    del graph.output[:]
    graph.output.append(output)
    remove_unused(graph)
    # Old files list their weights among the inputs: a removed one would now look like an image.
    kept = inputs | {tensor.name for tensor in graph.initializer}
    listed = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.input if v.name in kept]
    del graph.input[:]
    graph.input.extend(listed)


def _scores(producers: Producers, value: onnx.ValueInfoProto) -> str | None:
    """The float tensor that output ``value`` hands out, if it is not a ranking."""
    node = producers.get(value.name)
    if node is not None and node.op_type == "ZipMap":  # of scikit-learn and Core ML: a map from label to score
        return str(node.input[0])
    if node is not None and node.op_type == "QuantizeLinear":  # a quantised graph with a quantised output
        return str(node.input[0])
    if value.type.tensor_type.elem_type not in _FLOATS or _before_ranking(producers, value) is not None:
        return None
    return value.name


def _before_ranking(producers: Producers, value: onnx.ValueInfoProto) -> str | None:
    """What the ArgMax or TopK ranks that output ``value`` comes from; None if it comes from neither."""
    node = producers.get(value.name)
    while node is not None and node.op_type in SHAPE_OPS | {"Cast"}:
        node = producers.get(node.input[0])
    return str(node.input[0]) if node is not None and node.op_type in _RANKING else None


def _unshaped(producers: Producers, tensor: str) -> str:
    node = producers.get(tensor)
    while node is not None and node.op_type in SHAPE_OPS:
        tensor = node.input[0]
        node = producers.get(tensor)
    return tensor


def _origin(producers: Producers, tensor: str) -> str:
    """``tensor`` without the shape operators and the one activation that it ends in."""
    tensor = _unshaped(producers, tensor)
    node = producers.get(tensor)
    return _unshaped(producers, node.input[0]) if node is not None and node.op_type in _ACTIVATIONS else tensor


def _activation(producers: Producers, tensor: str) -> str | None:
    """The activation that ``tensor`` ends in, apart from shape operators."""
    node = producers.get(_unshaped(producers, tensor))
    return node.op_type if node is not None and node.op_type in _ACTIVATIONS else None


def _listing(model: onnx.ModelProto) -> str:
    return ", ".join(f"{value.name} {_type_text(value)}" for value in model.graph.output)


def _type_text(value: onnx.ValueInfoProto) -> str:
    """``float [N, 10]``, or the kind of a type that is no tensor."""
    if not value.type.HasField("tensor_type"):
        return (value.type.WhichOneof("value") or "unknown").removesuffix("_type")
    tensor = value.type.tensor_type
    dims = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} [{dims}]"


def _why_not(value: onnx.ValueInfoProto) -> str:
    name, kind = value.name, _type_text(value)
    if not value.type.HasField("tensor_type"):
        return f"output {name} is a {kind}, no tensor of scores; export the model without what makes it"
    if value.type.tensor_type.elem_type == TensorProto.STRING:
        return f"output {name} ({kind}) holds texts and no scores; export the scores"
    return f"output {name} ({kind}) holds whole numbers and no scores; export the scores that they are made from"
