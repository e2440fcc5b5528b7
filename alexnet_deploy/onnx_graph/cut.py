"""A graph that ends at one of its layers: what the layer gives for an image becomes the output.

Of a quantised graph the output is what the layers behind read: where a QuantizeLinear and a DequantizeLinear follow the
layer, the dequantised numbers, not those before they are rounded. So the rest of the network, computed from the output,
gives its logits.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper

from alexnet_deploy.contract import LEAST_SIDE, MAX_FEATURES, FeatureOutput, ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, readers_in, remove_unused, tensors_read
from alexnet_deploy.onnx_graph.element_types import element_types, makers_in
from alexnet_deploy.onnx_graph.layers import LAYERS, pads_to_blocks, products_before_bias
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, graph_inputs, layer_of, set_contract, weights_sha256
from alexnet_deploy.onnx_graph.sizes import without_weights

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_QUANTISES = ("QuantizeLinear", "DequantizeLinear")
_LISTED = 60
"""Names in an error; AlexNet has 22 layers. Of more, those that look like the one asked for."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that a graph may end at."""

    name: str
    node: str
    """Name of the node that computes it."""
    tensor: str
    shape: tuple[int, ...]
    """Of its output for one image."""


def layers_in(model: onnx.ModelProto) -> list[Layer]:
    """The layers of ``model`` in its order: what is computed from the image, in floats of a known size per image.

    A dense layer that int4 has split into several nodes is one, with the name and the output that it had before.
    """
    graph = model.graph
    types, shapes = element_types(model), _shapes_per_image(model)
    products = products_before_bias(graph)
    inside = {product.output[0] for product in products.values()}
    from_image = {value.name for value in graph_inputs(model)}
    found = []
    for node in graph.node:
        if from_image.isdisjoint(tensors_read(node)):
            continue
        from_image.update(node.output)
        tensor = node.output[0]
        if node.op_type in _QUANTISES or tensor in inside or pads_to_blocks(node):
            continue
        if types.get(tensor) in _FLOATS and tensor in shapes:
            layer = products.get(tensor, node)
            found.append(Layer(layer_of(layer), layer.name, tensor, shapes[tensor]))
    return found


def find_layer(model: onnx.ModelProto, name: str, *, source: str, parameter: str = "layer") -> Layer:
    """The layer called ``name``: a layer, a node, a tensor, or a module (then its last layer).

    UsageError that lists the names for any other.
    """
    layers = layers_in(model)
    for part in ("name", "node", "tensor"):
        for layer in reversed(layers):
            if getattr(layer, part) == name:
                return layer
    inside = [layer for layer in layers if name and layer.name.startswith(f"{name}.")]
    if inside:
        return replace(inside[-1], name=name)
    names = list(dict.fromkeys(layer.name for layer in layers))
    listed = names if len(names) <= _LISTED else difflib.get_close_matches(name, names, _LISTED, 0.0)
    more = f" and {len(names) - len(listed)} more" * (len(names) > len(listed))
    raise UsageError(f"`{parameter}` {name}: {source} has no such layer; its layers are {', '.join(listed)}{more}")


def layer_before_last(model: onnx.ModelProto, *, source: str) -> Layer:
    """What the last layer with weights reads: the features that a classifier decides by."""
    last = _last_with_weights(model)
    if last is not None:
        makers = makers_in(model.graph)
        layers = {layer.tensor: layer for layer in layers_in(model)}
        maker = makers.get(last.input[0])
        while maker is not None and (maker.op_type in (*_QUANTISES, "Cast") or pads_to_blocks(maker)):
            maker = makers.get(maker.input[0])
        if maker is not None and maker.output[0] in layers:
            return layers[maker.output[0]]
    raise InputError(f"{source}: has no layer before a last one with weights; name a `layer`")


def last_maps(model: onnx.ModelProto) -> Layer | None:
    """The last layer before the one that scores classes whose output for an image is ``[C, H, W]``, with some places.

    None without one.
    """
    last = _last_with_weights(model)
    before = set()
    for node in model.graph.node:
        if last is not None and node.output[0] == last.output[0]:
            break
        before.update(node.output)
    found = [each for each in layers_in(model) if len(each.shape) == 3 and each.tensor in before]
    found = [each for each in found if min(each.shape[1:]) >= LEAST_SIDE]
    return found[-1] if found else None


def cut_after(model: onnx.ModelProto, layer: Layer, contract: ModelContract) -> ModelContract:
    """Let ``model`` end at ``layer``, in place; its contract, which is put into its metadata, is returned.

    The output is float32 ``[N, width]``, in C order.
    """
    graph = model.graph
    types = element_types(model)
    tensor = _as_read(layer.tensor, graph)
    taken = names_in(graph)
    name = fresh_name(taken, "features")
    batch = onnx.TensorShapeProto.Dimension.FromString(
        graph.output[0].type.tensor_type.shape.dim[0].SerializeToString()
    )
    if types[tensor] != TensorProto.FLOAT:
        single = fresh_name(taken, "features/float32")
        node = helper.make_node("Cast", [tensor], [single], fresh_name(taken, "features/Cast"), to=TensorProto.FLOAT)
        graph.node.append(node)
        tensor = single
    graph.node.append(helper.make_node("Flatten", [tensor], [name], fresh_name(taken, "features/Flatten"), axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, math.prod(layer.shape)]))
    graph.output[0].type.tensor_type.shape.dim[0].CopyFrom(batch)
    remove_unused(graph)
    kept = {output for node in graph.node for output in node.output}
    notes = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name in kept]
    del graph.value_info[:]
    graph.value_info.extend(notes)
    features = FeatureOutput(layer.name, layer.shape, weights_sha256(model))
    cut = replace(
        contract.uncalibrated(), labels=(), class_ids=(), output_name=name, activation="softmax", features=features
    )
    set_contract(model, cut)
    return cut


def _as_read(tensor: str, graph: onnx.GraphProto) -> str:
    """``tensor``, or what a DequantizeLinear makes of it where nothing else reads it."""
    readers = readers_in(graph)

    def only(name: str, op: str) -> onnx.NodeProto | None:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and found[0].op_type == op and found[0].input[0] == name else None

    quantised = only(tensor, "QuantizeLinear")
    dequantised = None if quantised is None else only(quantised.output[0], "DequantizeLinear")
    return tensor if dequantised is None else dequantised.output[0]


def _last_with_weights(model: onnx.ModelProto) -> onnx.NodeProto | None:
    constants = _constants(model)
    nodes = reversed(model.graph.node)
    return next((node for node in nodes if node.op_type in LAYERS and node.input[1] in constants), None)


def _constants(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors that do not depend on the image."""
    found = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in found for name in tensors_read(node) if name):
            found.update(node.output)
    return found


def _shapes_per_image(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape behind the first axis, of each tensor whose first axis is known to be that of the images.

    That is so if it has as many entries as there are images, for two numbers of them.
    """
    fixed = fixed_batch(model)
    shapes_by_count = {count: _shapes(model, count) for count in ((fixed,) if fixed else (2, 3))}
    first = next(iter(shapes_by_count.values()))
    return {
        name: shape[1:] or (1,)
        for name, shape in first.items()
        if all(shapes.get(name) == (count, *shape[1:]) for count, shapes in shapes_by_count.items())
        and 1 <= math.prod(shape[1:]) <= MAX_FEATURES
    }


def _shapes(model: onnx.ModelProto, images: int) -> Mapping[str, tuple[int, ...]]:
    bare = without_weights(model)
    (given,) = [value for value in bare.graph.input if value.name == graph_inputs(model)[0].name]
    given.type.tensor_type.shape.dim[0].dim_value = images
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")  # it may name the free batch
    del bare.graph.value_info[:]  # so may these
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
