"""An int8 graph written so that ONNX Runtime computes it in integers on a CPU: the same function, in other nodes.

ONNX Runtime fuses a quantised layer only where its bias is a DequantizeLinear of int32 and its QuantizeLinear stands
directly behind it. Ours have a float bias, which TensorRT wants, and Relu, MaxPool or Reshape in between. Otherwise it
dequantises the weights in every call and computes in float32, more slowly than the float32 graph.

    before                                                  after
    Conv -> Relu -> MaxPool -> Q(s, int8 0) -> DQ           Conv -> Q(s, uint8 0) -> MaxPool -> Clip(127) -> DQ
    Q(s, int8 0) -> DQ                                      Q(s, uint8 128) -> DQ
    Conv(x, w, bias)                                        Conv(x, w, DQ(int32 bias, s_x s_w))
    Gemm(x, w, bias, beta)                                  Gemm(x, w, beta bias)
    DQ(w) -> Conv that is not fused                         w in float32

QuantizeLinear rounds and clips at 0, so with uint8 and zero point 0 it is the Relu as well; it keeps the order of
values, so MaxPool may come after it; Clip keeps int8's largest value. That is exact. A bias is rounded to steps of
``s_x s_w``, of which a sum of products has thousands: the one difference to the graph as written. ``input_rows.py``
rewrites what comes before the first layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import fold_constants, fresh_name, names_in, readers_in, remove_unused
from alexnet_deploy.onnx_graph.layers import LAYERS, attribute, output_axis
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.runtime.lowering.dequantise import dequantised

# Legend: O output channel

_KEEP_ORDER = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""They only choose or rearrange values, so they give the same in front of a QuantizeLinear and behind it."""
OFFSET = np.uint8(128)
"""The zero point of uint8 with the steps of int8."""
_LARGEST = np.iinfo(np.int8).max
_LARGEST_BIAS = np.iinfo(np.int32).max


@dataclass
class Lowered:
    """The quantised layers by name: those that can be fused, and for the others the reason."""

    fused: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def to_integers(model: onnx.ModelProto) -> Lowered:
    """Rewrite the int8 layers of ``model`` in place, as the table above; all else stays as it is."""
    fold_constants(model)  # other tools quantise their weights in the graph
    graph = _Graph(model)
    for relu in [node for node in model.graph.node if node.op_type == "Relu"]:
        graph.absorb(relu)
    graph.use_uint8()
    found, left = Lowered(), set()
    for layer in [node for node in model.graph.node if node.op_type in LAYERS]:
        scales = graph.scales_of(layer)
        if scales is None:
            continue
        reason = graph.fuse(layer, *scales)
        if reason is None:
            found.fused.append(layer.name)
        else:
            found.left[layer.name] = reason
            left.add(layer.output[0])
    graph.finish()
    dequantise_weights(model, [node for node in model.graph.node if node.output[0] in left])
    return found


def dequantise_weights(model: onnx.ModelProto, layers: Iterable[onnx.NodeProto]) -> None:
    """Let ``layers`` read quantised weights as float32, computed now instead of in every call: the same numbers."""
    constants = initializers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    taken = names_in(model.graph)
    for layer in layers:
        node = makers.get(layer.input[1])
        if node is None or node.op_type != "DequantizeLinear" or any(name not in constants for name in node.input):
            continue
        operands = [constants[name] for name in node.input]
        if operands[1].data_type != onnx.TensorProto.FLOAT or len(operands[1].dims) > 1:
            continue  # its result is float16, or its scales belong to blocks
        name = fresh_name(taken, f"{node.output[0]}/float")
        model.graph.initializer.append(numpy_helper.from_array(dequantised(node, operands), name))
        layer.input[1] = name
    remove_unused(model.graph)


class _Graph:
    """A graph that is being rewritten: its constants, and who makes and who reads each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = initializers(model)
        self._taken = names_in(model.graph)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers = readers_in(model.graph)
        self._outputs = {value.name for value in model.graph.output}
        self._inserted: dict[str, onnx.NodeProto] = {}
        """A new node in front of another one, by the first output of that one."""

    def absorb(self, relu: onnx.NodeProto) -> None:
        """Let the QuantizeLinear that follows ``relu`` take its place, if it is the only one to read it."""
        (source,), (output,) = relu.input, relu.output
        if self._only_reader(source) is None:
            return
        last = output
        while (following := self._only_reader(last)) is not None and _keeps_order(following, last):
            last = following.output[0]
        if following is None or following.op_type != "QuantizeLinear" or not is_int8(following, self._constants):
            return
        quantised, readers = following.output[0], self._readers.get(following.output[0], [])
        if quantised in self._outputs or not all(
            node.op_type == "DequantizeLinear"
            and is_int8(node, self._constants)
            and node.input[1] == following.input[1]
            for node in readers
        ):
            return
        zero = self._add(f"{source}/zero", np.uint8(0))
        relu.op_type = "QuantizeLinear"
        relu.input.extend([following.input[1], zero])
        following.op_type = "Clip"
        following.input[:] = [last, "", self._add(f"{source}/largest", np.uint8(_LARGEST))]
        del following.attribute[:]
        for node in readers:
            node.input[2] = zero

    def use_uint8(self) -> None:
        """Quantise to uint8 with zero point 128 instead of int8: the same steps, for which there are fast kernels.

        ONNX Runtime does so itself, but not where several layers read a tensor, and then fuses no layer between types.
        """
        zero = self._add("uint8/zero", OFFSET)
        for node in self._graph.node:
            if node.op_type != "QuantizeLinear" or node.output[0] in self._outputs:
                continue
            readers = self._readers.get(node.output[0], [])
            if all(each.op_type == "DequantizeLinear" for each in readers) and all(
                is_int8(each, self._constants) for each in (node, *readers)
            ):
                for each in (node, *readers):
                    each.input[2] = zero

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def scales_of(self, layer: onnx.NodeProto) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]] | None:
        """The scales of the input (None: not quantised) and of the weight, one or ``[O]``; None without an int8 weight.

        float16 scales count as none: the layers between are float16, which this runtime computes by casts.
        """
        weight = self._makers.get(layer.input[1])
        if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in self._constants:
            return None
        scale_w, values = self._array(weight, 1), self._array(weight, 0)
        if scale_w is None or values is None or scale_w.dtype != np.float32 or values.dtype != np.int8:
            return None
        made = self._makers.get(layer.input[0])
        is_quantised = made is not None and made.op_type == "DequantizeLinear" and made.input[0] not in self._constants
        scale_x = self._array(made, 1) if made is not None and is_quantised else None
        return (None if scale_x is None or scale_x.size != 1 else scale_x), scale_w

    def fuse(
        self, layer: onnx.NodeProto, scale_x: NDArray[np.float32] | None, scale_w: NDArray[np.float32]
    ) -> str | None:
        """Give ``layer`` the bias that ONNX Runtime fuses; else the reason why it cannot."""
        if scale_x is None:
            return "its input is not quantised"
        following = self._only_reader(layer.output[0])
        if layer.op_type == "Conv" and (following is None or following.op_type != "QuantizeLinear"):
            between = "several layers" if following is None else following.op_type
            return f"{between} reads it before it is quantised again"
        if following is not None and following.op_type == "QuantizeLinear":
            kinds = [self._array(node, 2) for node in (self._makers[layer.input[0]], following)]
            if len({None if kind is None else kind.dtype for kind in kinds}) > 1:
                return "its input and its output are quantised to different types"
        if len(layer.input) < 3 or not layer.input[2]:
            return None
        bias, outputs = self._array(layer, 2), self._outputs_of(layer)
        if bias is None or bias.shape != (outputs,) or bias.dtype != np.float32 or scale_w.size not in (1, outputs):
            return "its bias is no constant of one number per output"
        if layer.op_type == "Gemm" and attribute(layer, "alpha", 1) != 1:
            return "its products have a factor (alpha) and its bias has none"
        scale = np.broadcast_to(scale_x.reshape(-1) * scale_w.reshape(-1), bias.shape)
        if not np.all(scale):
            return "its scales are too small for a bias"
        beta = attribute(layer, "beta", 1) if layer.op_type == "Gemm" else 1
        steps = np.rint(bias.astype(np.float64) * beta / scale)
        if not np.all(np.abs(steps) <= _LARGEST_BIAS):
            return "its bias exceeds 32 bits of its steps"
        operands = [
            self._add(f"{layer.output[0]}/bias", steps.astype(np.int32)),
            self._add(f"{layer.output[0]}/bias/scale", np.ascontiguousarray(scale)),
        ]
        made = fresh_name(self._taken, f"{layer.output[0]}/bias/dq")
        name = fresh_name(self._taken, f"{layer.output[0]}/bias/DQ")
        self._inserted[layer.output[0]] = helper.make_node("DequantizeLinear", operands, [made], name, axis=0)
        layer.input[2] = made
        for found in [found for found in layer.attribute if found.name == "beta"]:
            layer.attribute.remove(found)  # it is 1 now, as the kernel requires
        return None

    def _outputs_of(self, layer: onnx.NodeProto) -> int:
        """How many output channels a layer with an int8 weight has."""
        return int(self._constants[self._makers[layer.input[1]].input[0]].dims[output_axis(layer)])

    def finish(self) -> None:
        """Put the nodes in their order."""
        body = []
        for node in self._graph.node:
            if node.output[0] in self._inserted:
                body.append(self._inserted[node.output[0]])
            body.append(onnx.NodeProto.FromString(node.SerializeToString()))
        del self._graph.node[:], self._graph.value_info[:]  # the types between the nodes are others now
        self._graph.node.extend(body)
        remove_unused(self._graph)

    def _array(self, node: onnx.NodeProto, number: int) -> NDArray[Any] | None:
        """A constant input."""
        tensor = self._constants.get(node.input[number]) if number < len(node.input) else None
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _add(self, wanted: str, values: NDArray[Any] | np.generic) -> str:
        name = fresh_name(self._taken, wanted)
        tensor = numpy_helper.from_array(np.asarray(values), name)
        self._graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name


def is_int8(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has one float32 scale, and int8 with zero point 0."""
    if len(node.input) < 3 or node.input[1] not in constants or node.input[2] not in constants:
        return False
    scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
    return bool(scale.dtype == np.float32 and scale.size == 1 and zero.dtype == np.int8 and not zero.any())


def _keeps_order(node: onnx.NodeProto, source: str) -> bool:
    """Whether ``node`` gives the same in front of a QuantizeLinear as behind it."""
    if node.op_type not in _KEEP_ORDER or node.input[0] != source or len(node.output) > 1:
        return False
    if node.op_type != "MaxPool":
        return True
    # A window that lies in the padding alone has no value: -inf in float32, 0 in uint8.
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    padding, sides = found.get("pads", [0]), found["kernel_shape"]
    plain = not found.get("ceil_mode", 0) and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    return plain and max(padding) < min(sides) and set(found.get("dilations", [1])) == {1}
