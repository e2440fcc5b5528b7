"""The way from pixels to the first int8 layer, in the order of numbers that ONNX Runtime's integer kernels read.

Its convolution of integers wants the channels last, so it moves the Transpose of our graphs behind the normalisation,
which then adds and multiplies in runs of three channels: slower than half of the layers together. And three channels
are no multiple of four, for which its fast kernel is made.

    before                                   after
    Transpose -> Sub(mean) -> Mul(scale)     Sub, Mul on rows [N, H, W C] with constants [W C]
    -> Q(s, uint8 128) -> DQ                 -> Q(s, uint8 128) -> Pad -> Reshape [N, H, W/s, s C] -> Transpose -> DQ
    Conv(K x K, strides s)                   Conv(K x K/s, strides s x 1), see conv_blocks.py

The numbers are the same, and so are the products of each sum.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, readers_in, remove_unused
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.runtime.lowering.conv_blocks import Blocks, blocks_of
from alexnet_deploy.runtime.lowering.quantised_nodes import zero_of

# Legend: N batch, H height, W width, C channel, K kernel's side

_BY_ELEMENT = ("Add", "Sub", "Mul", "Div")
_TO_NCHW = (0, 3, 1, 2)
_PAD_OF_ALL_TYPES = 13
"""The first opset whose Pad takes uint8."""


def input_in_rows(model: onnx.ModelProto, integer_layers: Collection[str]) -> str | None:
    """Rewrite the start of ``model``, after ``to_integers``, in place, as the table above; else the reason why not.

    ``integer_layers``: names of the nodes that are computed in integers; only in front of one of these is it a gain.
    """
    if next((o.version for o in model.opset_import if not o.domain), 0) < _PAD_OF_ALL_TYPES:
        return f"its opset is older than {_PAD_OF_ALL_TYPES}"
    graph = _Rows(model)
    start = graph.find(integer_layers)
    if isinstance(start, str):
        return start
    graph.rewrite(start)
    return None


@dataclass
class _Start:
    """The nodes from the input to its quantisation, and the numbers per image."""

    pixels: str
    height: int
    width: int
    channels: int
    transpose: onnx.NodeProto
    quantize: onnx.NodeProto
    readers: list[onnx.NodeProto]
    """The DequantizeLinear nodes behind it."""
    first: onnx.NodeProto
    constants: list[tuple[onnx.NodeProto, int, NDArray[Any]]] = field(default_factory=list)
    """Of nodes by element: which input is constant, and its values per row."""


class _Rows:
    """A graph whose start is being rewritten."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._graph = model, model.graph
        self._constants = initializers(model)
        self._taken = names_in(model.graph)
        self._readers = readers_in(model.graph)
        self._outputs = {value.name for value in model.graph.output}

    def find(self, integer_layers: Collection[str]) -> _Start | str:
        """The start of the graph, or why it is not one that can be rewritten."""
        inputs = [value for value in self._graph.input if value.name not in self._constants]
        kind = inputs[0].type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        if len(inputs) != 1 or kind.elem_type != TensorProto.UINT8 or len(shape) != 4 or not all(shape[1:]):
            return "its input is not one tensor of pixels of known size"
        name, transpose, constants = inputs[0].name, None, []
        first = self._reader(name)
        while (node := self._reader(name)) is not None and node.op_type != "QuantizeLinear":
            if node.op_type == "Transpose" and transpose is None:
                if tuple(helper.get_node_attr_value(node, "perm")) != _TO_NCHW:
                    return f"{node.name} turns it in another way"
                transpose = node
            elif node.op_type in _BY_ELEMENT:
                number = int(node.input[0] == name)
                values = self._per_row(node.input[number], shape[1:], turned=transpose is not None)
                if values is None:
                    return f"{node.name} has an operand that is no constant per pixel"
                constants.append((node, number, values))
            elif node.op_type != "Cast":
                return f"{node.name or node.op_type} comes before it is quantised"
            name = node.output[0]
        if node is None or first is None or transpose is None:
            return "it is not quantised alone"
        readers = self._readers.get(node.output[0], [])
        zeros = [zero_of(each, self._constants) for each in (node, *readers)]
        one = len(node.input) > 2 and len(set(zeros)) == 1 and isinstance(zeros[0], np.uint8)
        if node.output[0] in self._outputs or not one:
            return "it is not quantised with one scale"
        layers = [layer for each in readers for layer in self._readers.get(each.output[0], [])]
        if not layers or any(layer.name not in integer_layers for layer in layers):
            return "the first layer stays in float32"
        height, width, channels = shape[1:]
        return _Start(inputs[0].name, height, width, channels, transpose, node, readers, first, constants)

    def rewrite(self, start: _Start) -> None:
        """Put the new start in place of ``start``."""
        width, channels = start.width, start.channels
        flat = self._node("Reshape", [start.pixels, self._ints("rows", [0, start.height, width * channels])])
        for node, number, values in start.constants:
            node.input[number] = self._add(node.input[number], values)
        self._replace_input(start.first, start.pixels, flat.output[0])
        (turned,) = start.transpose.output
        for node in self._readers[turned]:
            self._replace_input(node, turned, start.transpose.input[0])
        blocks = self._in_blocks(start)
        (quantised,) = start.quantize.output
        start.quantize.output[0] = fresh_name(self._taken, f"{quantised}/rows")
        new = [start.quantize]
        size, before, behind = (blocks.size, blocks.before, blocks.behind) if blocks else (1, 0, 0)
        if before or behind:
            pads = self._ints("pads", [0, 0, before * channels, 0, 0, behind * channels])
            new.append(self._node("Pad", [new[-1].output[0], pads, start.quantize.input[2]]))
        shape = [0, start.height, (before + width + behind) // size, size * channels]
        new.append(self._node("Reshape", [new[-1].output[0], self._ints("pixels", shape)]))
        new.append(self._node("Transpose", [new[-1].output[0]], perm=_TO_NCHW))
        new[-1].output[0] = quantised
        body = [flat]
        for node in self._graph.node:
            if node is start.quantize:
                body.extend(new)
            elif node is not start.transpose:
                body.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body]
        del self._graph.node[:], self._graph.value_info[:]  # the shapes between the nodes are others now
        self._graph.node.extend(copies)
        remove_unused(self._graph)

    def _in_blocks(self, start: _Start) -> Blocks | None:
        """Rewrite the layer behind ``start`` to read blocks of pixels, if it is a convolution that gains by it."""
        conv = self._reader(start.readers[0].output[0]) if len(start.readers) == 1 else None
        if conv is None or conv.op_type != "Conv" or self._reader(conv.input[1]) is None:
            return None
        weight = next(node for node in self._graph.node if node.output[0] == conv.input[1])
        zero = numpy_helper.to_array(self._constants[weight.input[2]]) if len(weight.input) > 2 else np.int8(0)
        blocks = blocks_of(conv, numpy_helper.to_array(self._constants[weight.input[0]]), start.width)
        if blocks is None or np.any(zero):
            return None
        blocks.apply(conv)
        weight.input[0] = self._add("weight", blocks.weight_OCHB)
        return blocks

    def _reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def _per_row(self, name: str, shape: list[int], *, turned: bool) -> NDArray[Any] | None:
        """A constant for pixels ``[H, W, C]``, ``turned`` to ``[C, H, W]``, as one for rows ``[H or 1, W C]``."""
        if name not in self._constants:
            return None
        values = numpy_helper.to_array(self._constants[name])
        if values.size == 1:
            return values.reshape(())
        if values.ndim > 4:
            return None
        values = values.reshape((1,) * (4 - values.ndim) + values.shape)
        if turned:
            values = values.transpose(0, 2, 3, 1)
        fits = all(have in (1, want) for have, want in zip(values.shape, (1, *shape), strict=True))
        if not fits:
            return None
        rows, (_, width, channels) = values.shape[1], shape
        return np.ascontiguousarray(np.broadcast_to(values[0], (rows, width, channels)).reshape(rows, -1))

    @staticmethod
    def _replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
        node.input[:] = [new if name == old else name for name in node.input]

    def _node(self, kind: str, operands: list[str], **attributes: Any) -> onnx.NodeProto:
        name = fresh_name(self._taken, f"input/{kind}")
        return helper.make_node(kind, operands, [fresh_name(self._taken, f"{name}/y")], name, **attributes)

    def _ints(self, name: str, values: list[int]) -> str:
        return self._add(name, np.array(values, np.int64))

    def _add(self, wanted: str, values: NDArray[Any] | np.generic) -> str:
        name = fresh_name(self._taken, f"input/{wanted}")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name
