"""A graph of any float types -> the same graph in float32, which every conversion starts from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.limits import subgraphs

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def widen_to_float32(model: onnx.ModelProto, types: Iterable[int], source: str) -> bool:
    """Make float32 of every tensor of ``types``, in place; whether there was any.

    Exact for float16 and bfloat16; float64 is rounded, and InputError for one that exceeds float32.
    """
    return _Widening(frozenset(types), source).graph(model.graph)


class _Widening:
    def __init__(self, types: frozenset[int], source: str) -> None:
        self._types = types
        self._source = source

    def graph(self, graph: onnx.GraphProto) -> bool:
        found = [self._tensor(tensor) for tensor in graph.initializer]
        found += [self._type(value.type) for value in (*graph.input, *graph.output, *graph.value_info)]
        for node in graph.node:
            found += [self._attribute(attribute) for attribute in node.attribute]
            found += [self.graph(inner) for inner in subgraphs(node)]
        return any(found)

    def _attribute(self, attribute: AttributeProto) -> bool:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in self._types:
            attribute.i = TensorProto.FLOAT
            return True
        found = [self._tensor(tensor) for tensor in attribute.tensors]
        return self._tensor(attribute.t) if attribute.type == AttributeProto.TENSOR else any(found)

    def _type(self, kind: onnx.TypeProto) -> bool:
        if kind.HasField("tensor_type") and kind.tensor_type.elem_type in self._types:
            kind.tensor_type.elem_type = TensorProto.FLOAT
            return True
        return False

    def _tensor(self, tensor: TensorProto) -> bool:
        if tensor.data_type not in self._types:
            return False
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            wide = np.asarray(values.astype(np.float32))
        if np.any(np.isinf(wide) & np.isfinite(values)):
            raise InputError(f"{self._source}: weight {tensor.name} exceeds float32; export the model in float32")
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
        return True
