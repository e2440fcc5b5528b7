"""An int8 graph written so that ONNX Runtime computes it in integers on a CPU: the same function, in other nodes.

ONNX Runtime fuses a quantised layer only where its bias is a DequantizeLinear of int32 and its QuantizeLinear stands
directly behind it. Ours have a float bias, which TensorRT wants, and Relu, MaxPool or Reshape in between. Otherwise it
dequantises the weights in every call and computes in float32, more slowly than the float32 graph.

    before                                                  after
    Conv -> Relu -> MaxPool -> Q(s, int8 0) -> DQ           Conv -> Q(s, uint8 0) -> MaxPool -> Clip(127) -> DQ
    Q(s, int8 0) -> DQ                                      Q(s, uint8 128) -> DQ
    Conv(x, w, bias)                                        Conv(x, w, DQ(int32 bias, s_x s_w))
    Gemm(x, w, bias, beta)                                  Gemm(x, w, beta bias)
    Q(s, z) -> DQ -> Relu -> Q(s, z)                        Q(s, z) -> Clip(z)
    DQ(w) -> Conv that is not fused                         w in float32

QuantizeLinear rounds and clips at 0, so with uint8 and zero point 0 it is the Relu as well; it keeps the order of
values, so MaxPool may come after it; Clip keeps int8's largest value. That is exact, and so is it for a Clip from 0.
A bias is rounded to steps of ``s_x s_w``, of which a sum of products has thousands: the one difference to the graph as
written. A layer whose sums could exceed int32 stays (``sums.py``). Files of other tools have biases in int32, and a
lowest number that is the 0 of their Relu, already. ``input_rows.py`` rewrites what comes before the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import fold_constants, fresh_name, names_in, readers_in, remove_unused
from alexnet_deploy.onnx_graph.layers import LAYERS, attribute, output_axis
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.runtime.lowering.dequantise import dequantise_weights
from alexnet_deploy.runtime.lowering.quantised_nodes import bounds_of, keeps_order, zero_of
from alexnet_deploy.runtime.lowering.sums import bias_steps, fits_int32

# Legend: O output channel

_OFFSET = 128
"""What is added to int8 to make uint8 of it."""


@dataclass
class Lowered:
    """The quantised layers by name: those that can be fused, and for the others the reason."""

    fused: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def to_integers(model: onnx.ModelProto) -> Lowered:
    """Rewrite the int8 layers of ``model`` in place, as the table above; all else stays as it is."""
    fold_constants(model)  # other tools quantise their weights in the graph
    graph = _Graph(model)
    for node in [node for node in model.graph.node if node.op_type in ("Relu", "Clip")]:
        graph.absorb(node)
    graph.use_uint8()
    for node in [node for node in model.graph.node if node.op_type in ("Relu", "Clip")]:
        graph.bound_integers(node)
    found, left = Lowered(), set()
    for layer in [node for node in model.graph.node if node.op_type in LAYERS]:
        if not graph.has_int8_weight(layer):
            continue
        reason = graph.fuse(layer)
        if reason is None:
            found.fused.append(layer.name)
        else:
            found.left[layer.name] = reason
            left.add(layer.output[0])
    graph.finish()
    dequantise_weights(model, [node for node in model.graph.node if node.output[0] in left])
    return found


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

    def absorb(self, node: onnx.NodeProto) -> None:
        """Let the QuantizeLinear that follows a Relu or a Clip take its place, if it is the only one to read it.

        It stands for it where the bounds are its lowest and highest numbers: as it is written, or as uint8.
        """
        bounds = bounds_of(node, self._constants)
        source, last = node.input[0], node.output[0]
        maker = self._makers.get(source)
        if bounds is None or self._only_reader(source) is None or (maker and maker.op_type == "DequantizeLinear"):
            return
        while (following := self._only_reader(last)) is not None and keeps_order(following, last):
            last = following.output[0]
        if following is None or following.op_type != "QuantizeLinear":
            return
        zero, scale = zero_of(following, self._constants), self._array(following, 1)
        if zero is None or scale is None:
            return
        low, high = (_stored(bound, scale, zero) for bound in bounds)
        range_ = np.iinfo(zero.dtype)
        parameters = list(following.input[1:])
        if low <= range_.min and high >= range_.max:
            if zero.dtype == np.int8 and self._makers[last].op_type in ("Flatten", "Reshape"):
                return  # ONNX Runtime fuses no layer with a DequantizeLinear of int8 behind a Flatten
            operands, kind = [last], "Identity"
        elif zero.dtype == np.int8 and int(zero) == 0 == bounds[0] and self._is_activation(following):
            parameters[1] = self._add(f"{source}/zero", np.uint8(0))
            for reader in self._readers.get(following.output[0], []):
                reader.input[2] = parameters[1]
            operands, kind = [last, "", self._add(f"{source}/largest", np.uint8(min(range_.max, high)))], "Clip"
        else:
            return
        node.op_type = "QuantizeLinear"
        node.input[:] = [source, *parameters]
        del node.attribute[:]
        node.attribute.extend(following.attribute)
        following.op_type = kind
        following.input[:] = operands
        del following.attribute[:]

    def use_uint8(self) -> None:
        """Quantise to uint8 instead of int8, with a zero point 128 higher: the same steps, for which it has kernels.

        ONNX Runtime does so itself, but not where several layers read a tensor, and then fuses no layer between types.
        """
        names: dict[int, str] = {}
        for node in self._graph.node:
            if node.op_type != "QuantizeLinear" or not self._is_activation(node):
                continue
            zero = zero_of(node, self._constants)
            if zero is None or zero.dtype != np.int8:
                continue
            stored = int(zero) + _OFFSET
            if stored not in names:
                names[stored] = self._add("uint8/zero", np.uint8(stored))
            for each in (node, *self._readers.get(node.output[0], [])):
                each.input[2] = names[stored]

    def bound_integers(self, node: onnx.NodeProto) -> None:
        """Let a Relu or a Clip bound whole numbers where the nodes before and behind it have the same steps."""
        bounds, source = bounds_of(node, self._constants), self._makers.get(node.input[0])
        following = self._only_reader(node.output[0])
        if bounds is None or source is None or source.op_type != "DequantizeLinear":
            return
        if following is None or following.op_type != "QuantizeLinear":
            return
        zeros = [zero_of(each, self._constants) for each in (source, following)]
        scales = [self._array(each, 1) for each in (source, following)]
        if zeros[0] is None or scales[0] is None or scales[1] is None or scales[0].size != 1:
            return
        if zeros[1] is None or zeros[0].dtype != zeros[1].dtype or zeros[0] != zeros[1] or scales[0] != scales[1]:
            return
        range_ = np.iinfo(zeros[0].dtype)
        ends = [np.clip(_stored(bound, scales[0], zeros[0]), range_.min, range_.max) for bound in bounds]
        node.op_type = "Clip"
        node.input[:] = [
            source.input[0],
            *(self._add(f"{node.output[0]}/end", zeros[0].dtype.type(end)) for end in ends),
        ]
        following.op_type = "Identity"
        following.input[:] = [node.output[0]]
        del following.attribute[:]

    def _is_activation(self, quantize: onnx.NodeProto) -> bool:
        """Whether only DequantizeLinear nodes with its own zero point read what ``quantize`` gives."""
        output, zero = quantize.output[0], zero_of(quantize, self._constants)
        return output not in self._outputs and all(
            node.op_type == "DequantizeLinear"
            and zero is not None
            and (found := zero_of(node, self._constants)) is not None
            and (found.dtype, int(found)) == (zero.dtype, int(zero))
            for node in self._readers.get(output, [])
        )

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def has_int8_weight(self, layer: onnx.NodeProto) -> bool:
        """Whether ``layer`` reads an int8 constant through a DequantizeLinear with float32 scales.

        float16 scales do not count: the layers between are float16, which this runtime computes by casts.
        """
        weight = self._makers.get(layer.input[1])
        if weight is None or weight.op_type != "DequantizeLinear":
            return False
        values, scale = self._array(weight, 0), self._array(weight, 1)
        kinds = [None if found is None else found.dtype for found in (values, scale)]
        return kinds == [np.int8, np.float32]

    def fuse(self, layer: onnx.NodeProto) -> str | None:
        """Give a layer with an int8 weight the bias that ONNX Runtime fuses; else the reason why it cannot."""
        source = self._makers.get(layer.input[0])
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] in self._constants:
            return "its input is not quantised"
        zero = zero_of(source, self._constants)
        if zero is None:
            return "its input is not quantised to 8 bits with one scale"
        following = self._only_reader(layer.output[0])
        if layer.op_type == "Conv" and (following is None or following.op_type != "QuantizeLinear"):
            between = "several layers" if following is None else following.op_type
            return f"{between} reads it before it is quantised again"
        if following is not None and following.op_type == "QuantizeLinear":
            other = zero_of(following, self._constants)
            if other is None or other.dtype != zero.dtype:
                return "its input and its output are quantised to different types"
        stored = int(zero) + (_OFFSET if zero.dtype == np.int8 else 0)  # it makes uint8 of what is left as int8
        return self._fuse_bias(layer, self._makers[layer.input[1]], source, stored)

    def _fuse_bias(
        self, layer: onnx.NodeProto, weight: onnx.NodeProto, source: onnx.NodeProto, zero: int
    ) -> str | None:
        """Give ``layer`` a bias in int32 if its sums fit, as ``fuse``; ``zero`` is the zero point of its input."""
        values, scale_w, scale_x = self._array(weight, 0), self._array(weight, 1), self._array(source, 1)
        assert values is not None  # fuse has looked
        assert scale_w is not None
        assert scale_x is not None
        axis, zero_w = output_axis(layer), self._array(weight, 2)
        outputs = values.shape[axis]
        if zero_w is not None and zero_w.any() and zero_w.size > 1:
            return "its weight has several zero points"
        steps_O = None
        if len(layer.input) > 2 and layer.input[2]:
            bias_O = self._bias(layer.input[2])
            if bias_O is None or bias_O.shape != (outputs,) or scale_w.size not in (1, outputs):
                return "its bias is no constant of one number per output"
            if layer.op_type == "Gemm" and attribute(layer, "alpha", 1) != 1:
                return "its products have a factor (alpha) and its bias has none"
            beta = attribute(layer, "beta", 1) if layer.op_type == "Gemm" else 1
            whole = bias_steps(bias_O * beta, scale_x, scale_w)
            if whole is None:
                return "its scales are too small for a bias"
            steps_O, step_O = whole
        if not fits_int32(values, 0 if zero_w is None else int(zero_w.flat[0]), axis, zero, steps_O):
            return "its sums can exceed 32 bits"
        if steps_O is not None:
            self._use_bias(layer, steps_O.astype(np.int32), step_O)
        return None

    def _bias(self, name: str) -> NDArray[np.float64] | None:
        """A constant bias of float32, or of whole numbers with their scale as other tools write it."""
        made = self._makers.get(name)
        if made is None or made.op_type != "DequantizeLinear":
            bias = self._constants.get(name)
            is_float = bias is not None and bias.data_type == onnx.TensorProto.FLOAT
            return numpy_helper.to_array(bias).astype(np.float64) if bias is not None and is_float else None
        values, scale, zero = (self._array(made, i) for i in range(3))
        if values is None or scale is None or values.ndim != 1 or scale.size not in (1, values.size):
            return None
        if len(made.input) > 2 and made.input[2] and (zero is None or zero.any()):
            return None
        return values.astype(np.float64) * scale.reshape(-1).astype(np.float64)

    def _use_bias(self, layer: onnx.NodeProto, steps_O: NDArray[np.int32], step_O: NDArray[np.float32]) -> None:
        output = layer.output[0]
        operands = [self._add(f"{output}/bias", steps_O), self._add(f"{output}/bias/scale", step_O)]
        made, name = fresh_name(self._taken, f"{output}/bias/dq"), fresh_name(self._taken, f"{output}/bias/DQ")
        self._inserted[output] = helper.make_node("DequantizeLinear", operands, [made], name, axis=0)
        layer.input[2] = made
        for found in [found for found in layer.attribute if found.name == "beta"]:
            layer.attribute.remove(found)  # it is 1 now, as the kernel requires

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


def _stored(bound: float, scale: NDArray[np.float32], zero: np.integer[Any]) -> float:
    """What QuantizeLinear makes of ``bound``, without the ends of its type."""
    return float(np.rint(np.float32(bound) / scale.reshape(-1)[0])) + int(zero)
