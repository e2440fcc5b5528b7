"""float32 graph -> float16 graph, in memory: every type follows from the ONNX operator schemas.

Existing converters either clip weights silently, leave the ``Cast`` from uint8 pixels at float32 (a graph that no
checker passes), or leave nodes out of order (docs/decisions/0003-own-precision-transforms.md).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import initializers

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def cast_to_float16(model: onnx.ModelProto, *, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Return a copy of ``model`` that computes in float16; its inputs and outputs keep their types.

    Nodes named in ``keep``, and operators without a float16 form, stay float32 between two casts. Raises InputError
    for a weight too large for float16 and for a graph with control flow.
    """
    return _Float16Caster(model, keep).run()


class _Float16Caster:
    def __init__(self, model: onnx.ModelProto, keep: frozenset[str]) -> None:
        self.model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        self.keep = keep
        graph = self.model.graph
        self.weights = initializers(self.model)
        self.was_float = {t.name for t in graph.initializer if t.data_type == FLOAT} | {
            v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.tensor_type.elem_type == FLOAT
        }
        self.now = {v.name: FLOAT for v in graph.input if v.name in self.was_float}
        self.opset = next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.body: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        for output in graph.output:
            if self.now.get(output.name) == FLOAT16:
                self._return_as_float(output.name)
        body, constants = list(self.body), list(self.constants.values())
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(body)
        graph.initializer.extend(constants)
        return self.model

    def _convert(self, original: onnx.NodeProto) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise InputError(
                f"node {node.name}: control flow ({node.op_type}) has no float16 form; export the model without it"
            )
        schema = _schema(node, self.opset)
        gives_float = any(name in self.was_float for name in node.output)
        stays = node.name in self.keep or (gives_float and not any(_allows_float16(port) for port in schema.outputs))
        for index, name in enumerate(node.input):
            if not name:
                continue
            port = schema.inputs[min(index, len(schema.inputs) - 1)]  # the last input may be variadic
            if name in self.was_float:
                node.input[index] = self._as(name, FLOAT if stays or not _allows_float16(port) else FLOAT16)
            elif name in self.weights:
                self.constants[name] = self.weights[name]
        for name in node.output:
            if name in self.was_float:
                self.now[name] = FLOAT if stays else FLOAT16
        if not stays:
            for attribute in node.attribute:
                _cast_attribute(attribute, node)
        self.body.append(node)

    def _as(self, name: str, wanted: int) -> str:
        """The name of the tensor that holds ``name`` in type ``wanted``; adds a constant or a Cast if necessary."""
        if name in self.weights:
            if wanted == FLOAT:
                self.constants[name] = self.weights[name]
                return name
            half = f"{name}/fp16"
            if half not in self.constants:
                self.constants[half] = numpy_helper.from_array(
                    _to_float16(numpy_helper.to_array(self.weights[name]), name), half
                )
            return half
        if self.now[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            cast = f"{name}/{'fp16' if wanted == FLOAT16 else 'fp32'}"
            self.casts[name, wanted] = cast
            self.body.append(helper.make_node("Cast", [name], [cast], f"{cast}/Cast", to=wanted))
        return self.casts[name, wanted]

    def _return_as_float(self, name: str) -> None:
        """Keep the name and type of an output of the graph; its node and its other readers use a new name."""
        inner = f"{name}/fp16"
        for node in self.body:
            for names in (node.input, node.output):
                for index, used in enumerate(names):
                    if used == name:
                        names[index] = inner
        self.body.append(helper.make_node("Cast", [inner], [name], f"{name}/Cast", to=FLOAT))


def _schema(node: onnx.NodeProto, opset: int) -> defs.OpSchema:
    try:
        return defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError as exc:
        raise InputError(
            f"node {node.name}: {node.domain}.{node.op_type} is not an ONNX operator; export the model without it, or "
            "build it in fp32"
        ) from exc


def _allows_float16(port: defs.OpSchema.FormalParameter) -> bool:
    return "tensor(float16)" in port.types


def _cast_attribute(attribute: AttributeProto, node: onnx.NodeProto) -> None:
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
        attribute.t.CopyFrom(
            numpy_helper.from_array(_to_float16(numpy_helper.to_array(attribute.t), node.name), attribute.t.name)
        )
    elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i == FLOAT:
        attribute.i = FLOAT16
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(_to_float16(np.asarray(values, np.float32), node.name))
        attribute.CopyFrom(helper.make_attribute("value", tensor))


def _to_float16(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.isfinite(values).all() and not np.isfinite(half).all():
        raise InputError(f"{name}: {np.abs(values).max():.3g} exceeds float16's 65504; build it without fp16")
    return half
