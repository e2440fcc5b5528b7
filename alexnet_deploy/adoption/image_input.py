"""The input of a model of another tool: what it is, and uint8 RGB pixels in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.own_scaling import scaling_node
from alexnet_deploy.contract import Channels, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph import onnx_file
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, readers_in

# Legend: N batch, H height, W width, C channel

LUMA = "pixels/luma"
"""Names of the nodes that compute grey begin so; their numbers exceed float16, so they always stay float32."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_COUNTS = {1: ("grey",), 3: ("rgb", "bgr"), 4: ("rgba",)}
_MOVES = frozenset(("Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Gather", "Slice", "Flatten"))
"""Operators that give the same numbers for a float input as for an integer one."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The only input of a graph, as it was exported."""

    name: str
    elem_type: int
    batched: bool
    """False: [C, H, W] or [H, W, C]."""
    channels_last: bool
    channels: int
    height: int | None
    """None: free."""
    width: int | None
    scaling: str | None = None
    """The node that scales the pixel values 0..255 itself, if there is one."""

    @property
    def raw(self) -> bool:
        """Whether it takes the pixel values 0..255 as they are."""
        return self.elem_type == TensorProto.UINT8

    @property
    def orders(self) -> tuple[Channels, ...]:
        """What its channels can be."""
        return _COUNTS[self.channels]  # type: ignore[return-value]


def find_input(model: onnx.ModelProto, path: Path) -> ImageInput:
    """The image input; InputError, with its cause, for a model that has none or one that pixels cannot become."""
    inputs = onnx_file.graph_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{path}: has {len(inputs)} inputs ({names}), an image classifier has one; export it with one")
    (value,) = inputs
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower() if value.type.HasField("tensor_type") else "no tensor"
    if tensor.elem_type not in (*_FLOATS, TensorProto.UINT8):
        raise InputError(
            f"{path}: input {value.name} is {kind}, and nothing records how pixels become such numbers; export the "
            "model with a float or uint8 input"
        )
    dims = [max(dim.dim_value, 0) for dim in tensor.shape.dim]  # Paddle writes -1 for a free one
    shape = f"[{', '.join(str(d.dim_value or d.dim_param or '?') for d in tensor.shape.dim)}]"
    if len(dims) not in (3, 4) or not tensor.HasField("shape"):
        raise InputError(
            f"{path}: input {value.name} {shape} is no image [N, 3, H, W] or [N, H, W, 3]; export the model with one"
        )
    batched = len(dims) == 4
    sides = dims[-3:]
    last = _channels_last(sides)
    if last is None and batched and 0 in (sides[0], sides[2]):
        last, sides = _from_first_node(model, value.name, sides)
    if last is None:
        odd = next((side for side in (sides[0], sides[2]) if side), 0)
        why = f"has {odd} channels" if odd and odd < 64 else "does not say where its channels are"
        raise InputError(
            f"{path}: input {value.name} {shape} {why}; export the model with 1, 3 or 4 channels at a fixed place"
        )
    channels, height, width = (sides[2], sides[0], sides[1]) if last else (sides[0], sides[1], sides[2])
    return ImageInput(
        value.name,
        tensor.elem_type,
        batched,
        last,
        channels,
        height or None,
        width or None,
        scaling_node(model, value.name),
    )


def _channels_last(sides: list[int]) -> bool | None:
    """Whether the last of three sizes is that of the channels; None: unknown."""
    first, middle, last = sides
    for counts in ((3,), (1, 4)):
        if (first in counts) != (last in counts):
            return last in counts
        if first in counts:  # both: an image of 3 x 3, or a thin one; the sides of an image are mostly equal
            return first == middle and middle != last
    return None


def _from_first_node(model: onnx.ModelProto, name: str, sides: list[int]) -> tuple[bool | None, list[int]]:
    """Where the channels are, by the operator that reads an input of free sizes; ``sides`` with their number."""
    weights = onnx_file.initializers(model)
    readers = [node for node in model.graph.node if name in node.input]
    found: tuple[bool | None, list[int]] = (None, sides)
    if len(readers) == 1:
        node = readers[0]
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        last = node.op_type == "Transpose" and perm == [0, 3, 1, 2]
        if last:
            later = [other for other in model.graph.node if node.output[0] in other.input]
            node = later[0] if len(later) == 1 else node
        if node.op_type == "Conv" and node.input[1] in weights:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            count = int(weights[node.input[1]].dims[1] * group)
            if count in _COUNTS:
                found = last, [*sides[:2], count] if last else [count, *sides[1:]]
    return found


def check_channels(image: ImageInput, channels: Channels | None, path: Path) -> Channels:
    """What the model computes on: ``channels``, or what its input has if it is None; UsageError if it has not."""
    if channels is not None and channels not in image.orders:
        raise UsageError(
            f"{path}: `channels` {channels} does not fit an input of {image.channels}; use {' or '.join(image.orders)}"
        )
    return channels or image.orders[0]


def fix_size(model: onnx.ModelProto, image: ImageInput, height: int, width: int) -> None:
    """Make the input float32 ``[N, C, H, W]`` or ``[N, H, W, C]`` of this size, whatever it was."""
    graph = model.graph
    taken = names_in(graph)
    (value,) = onnx_file.graph_inputs(model)
    batch = value.type.tensor_type.shape.dim[0] if image.batched else None
    size: list[int | str] = [height, width, image.channels] if image.channels_last else [image.channels, height, width]
    count: int | str = 1 if batch is None else max(batch.dim_value, 0) or "N"
    name = target = value.name
    front = []
    if not image.batched:
        # Squeeze takes its axes as an input from opset 13 on; the model is of a later one.
        axes, name = fresh_name(taken, "pixels/axes"), fresh_name(taken, "pixels/batch")
        graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axes))
        front.append(helper.make_node("Squeeze", [name, axes], [target], fresh_name(taken, "pixels/Squeeze")))
    if image.elem_type != TensorProto.FLOAT and not (image.raw and _only_moved(graph, value.name)):
        target, name = name, fresh_name(taken, "pixels/typed")
        node = helper.make_node("Cast", [name], [target], fresh_name(taken, "pixels/TypeCast"), to=image.elem_type)
        front.insert(0, node)
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.input[:], graph.node[:], graph.value_info[:]  # the types and sizes in value_info are out of date
    graph.node.extend([*front, *body])
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [count, *size]))


def _only_moved(graph: onnx.GraphProto, name: str) -> bool:
    """Whether an integer tensor reaches arithmetic only through a Cast: it can then be float from the start."""
    readers = readers_in(graph)
    pending, seen = [name], {name}
    while pending:
        tensor = pending.pop()
        for node in readers.get(tensor, []):
            if node.op_type not in _MOVES or node.input[0] != tensor or list(node.input).count(tensor) > 1:
                return False
            if node.op_type != "Cast":
                new = [output for output in node.output if output not in seen]
                pending += new
                seen.update(new)
    return seen.isdisjoint(value.name for value in graph.output)


def start_from_pixels(model: onnx.ModelProto, pre: Preprocessing, *, input_name: str, channels_last: bool) -> None:
    """Prepend cast, layout, channels and normalisation to a float32 input, as in a model of ``export``.

    Cast comes first: TensorRT does no arithmetic on uint8. Grey is Pillow's "L", exact in float32.
    """
    graph = model.graph
    old = onnx_file.graph_inputs(model)[0]
    front = _Front(names_in(graph) - {old.name}, axis=3 if channels_last else 1)
    tensor = front.node("Cast", input_name, to=TensorProto.FLOAT)
    if not channels_last:
        tensor = front.node("Transpose", tensor, perm=[0, 3, 1, 2])
    mean, std = np.asarray(pre.mean, np.float32), np.asarray(pre.std, np.float32)
    match pre.channels:
        case "bgr":
            order = front.weight("order", np.array([2, 1, 0], np.int64))
            tensor = front.node("Gather", tensor, order, axis=front.axis)
            mean, std = mean[::-1], std[::-1]
        case "grey":
            tensor = front.luma(tensor)
            mean, std = mean[:1], std[:1]
        case "rgba":
            pads = np.zeros(8, np.int64)
            pads[4 + front.axis] = 1
            tensor = front.node(
                "Pad", tensor, front.weight("pads", pads), front.weight("opaque", np.array(255, np.float32))
            )
            mean, std = np.append(mean, mean[:1]), np.append(std, std[:1])
    tensor = front.node("Sub", tensor, front.per_channel("mean", mean * np.float32(255)))
    front.node("Mul", tensor, front.per_channel("scale", np.float32(1) / (std * np.float32(255))))
    front.nodes[-1].output[0] = old.name
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    batch = onnx_file.fixed_batch(model) or "N"
    del graph.node[:], graph.input[:]
    graph.input.append(helper.make_tensor_value_info(input_name, TensorProto.UINT8, [batch, pre.height, pre.width, 3]))
    graph.node.extend([*front.nodes, *body])
    graph.initializer.extend(front.weights)


class _Front:
    """Nodes and weights to be put before a graph, with names that it does not have."""

    def __init__(self, taken: set[str], axis: int) -> None:
        self.taken, self.axis = taken, axis
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, op: str, *inputs: str, prefix: str = "pixels", **attributes: Any) -> str:
        name = fresh_name(self.taken, f"{prefix}/{op}")
        output = fresh_name(self.taken, f"{name}_output")
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def weight(self, name: str, values: NDArray[np.generic], prefix: str = "pixels") -> str:
        name = fresh_name(self.taken, f"{prefix}/{name}")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def per_channel(self, name: str, values: NDArray[np.float32], prefix: str = "pixels") -> str:
        shape = [1, 1, 1, 1]
        shape[self.axis] = len(values)
        return self.weight(name, values.astype(np.float32).reshape(shape), prefix)

    def luma(self, tensor: str) -> str:
        """(19595 R + 38470 G + 7471 B + 32768) >> 16 in float32: every number in it is whole and below 2^24."""
        shares = self.per_channel("shares", np.array([19595, 38470, 7471], np.float32), LUMA)
        axes = self.weight("axes", np.array([self.axis], np.int64), LUMA)
        half = self.weight("half", np.array(32768, np.float32), LUMA)
        unit = self.weight("unit", np.array(2.0**-16, np.float32), LUMA)
        tensor = self.node("Mul", tensor, shares, prefix=LUMA)
        tensor = self.node("ReduceSum", tensor, axes, prefix=LUMA, keepdims=1)
        tensor = self.node("Add", tensor, half, prefix=LUMA)
        tensor = self.node("Mul", tensor, unit, prefix=LUMA)
        return self.node("Floor", tensor, prefix=LUMA)
