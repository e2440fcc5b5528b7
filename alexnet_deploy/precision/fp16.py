"""float32 graph -> float16 graph, in memory: every type follows from the ONNX operator schemas.

Existing converters either clip weights silently, leave the ``Cast`` from uint8 pixels at float32 (a graph that no
checker passes), or leave nodes out of order (docs/decisions/0003-own-precision-transforms.md).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from alexnet_deploy.adoption.image_input import LUMA
from alexnet_deploy.adoption.outputs.logits_nodes import IN_FLOAT32
from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.types import HALF

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
_SUMS_IN_FLOAT32 = frozenset((
    "CumSum", "GlobalLpPool", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "LpPool", "MeanVarianceNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSum",
    "ReduceSumSquare",
))  # fmt: skip
"""Operators that sum many values or their squares, which passes float16's 65504 where the values themselves do not."""
_MAXIMA = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax"})


def cast_to_float16(model: onnx.ModelProto, *, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Return a copy of ``model`` that computes in float16; its inputs and outputs keep their types.

    Nodes named in ``keep``, and operators without a float16 form, stay float32 between two casts. Raises InputError
    for a weight too large for float16, for a graph with control flow, and for one whose types cannot be inferred. A
    bound too large for float16, such as the largest float32 in a Clip, becomes float16's largest number. A single
    number too small for it becomes its smallest: it may keep a divisor from 0, and 0 / 0 is not finite.
    """
    return _Float16Caster(model, keep).run()


class _Float16Caster:
    def __init__(self, model: onnx.ModelProto, keep: frozenset[str]) -> None:
        try:
            self.model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception as exc:  # besides InferenceError it raises whatever its C++ does
            raise InputError(f"its types cannot be inferred ({one_line(exc, 160)}); build it without fp16") from exc
        self.keep = keep
        graph = self.model.graph
        self.weights = initializers(self.model)
        self.known = {t.name for t in graph.initializer} | {
            v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.WhichOneof("value")
        }
        self.was_float = {t.name for t in graph.initializer if t.data_type == FLOAT} | {
            v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.tensor_type.elem_type == FLOAT
        }
        self.now = {v.name: FLOAT for v in graph.input if v.name in self.was_float}
        self.opset = next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.taken = names_in(graph)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.body: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.halves: dict[tuple[str, int], str] = {}
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        for output in graph.output:
            if output.name in self.weights:
                self.constants[output.name] = self.weights[output.name]
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
        unknown = next((name for name in (*node.input, *node.output) if name and name not in self.known), None)
        if unknown is not None:
            raise InputError(
                f"node {node.name}: the type of its tensor {unknown} cannot be inferred; build it without fp16"
            )
        gives_float = any(name in self.was_float for name in node.output)
        stays = (
            node.name in self.keep
            or node.name.startswith((IN_FLOAT32, LUMA))
            or node.op_type in _SUMS_IN_FLOAT32
            or (gives_float and not any(_allows_float16(port) for port in schema.outputs))
        )
        for index, name in enumerate(node.input):
            if not name:
                continue
            port = schema.inputs[min(index, len(schema.inputs) - 1)]  # the last input may be variadic
            if name in self.was_float:
                wanted = FLOAT if stays or not _allows_float16(port) else FLOAT16
                node.input[index] = self._as(name, wanted, self._may_clamp(original, index))
            elif name in self.weights:
                self.constants[name] = self.weights[name]
        for name in node.output:
            if name in self.was_float:
                self.now[name] = FLOAT if stays else FLOAT16
        if not stays:
            for attribute in node.attribute:
                _cast_attribute(attribute, node)
        self.body.append(node)

    def _may_clamp(self, node: onnx.NodeProto, index: int) -> int:
        """The sign of the numbers that an operand may hold beyond float16: clamped, they change no result; 0: none."""
        if node.op_type == "Clip":
            return (0, -1, 1)[index]
        if node.op_type in ("Min", "Max"):
            return 1 if node.op_type == "Min" else -1
        readers = {reader.op_type for name in node.output for reader in self.readers.get(name, ())}
        # What pads before a maximum, and what masks before a softmax, need only be lower than everything else.
        if node.op_type == "Pad" and index == 2 and readers and readers <= _MAXIMA:
            return -1
        return -1 if node.op_type == "Where" and readers == {"Softmax"} else 0

    def _as(self, name: str, wanted: int, clamped: int = 0) -> str:
        """The name of the tensor that holds ``name`` in type ``wanted``; adds a constant or a Cast if necessary.

        Numbers of the sign ``clamped`` beyond float16 become its largest.
        """
        if name in self.weights:
            if wanted == FLOAT:
                self.constants[name] = self.weights[name]
                return name
            if (name, clamped) not in self.halves:
                values = _to_float16(numpy_helper.to_array(self.weights[name]), name, clamped)
                half = fresh_name(self.taken, f"{name}{HALF}")
                self.halves[name, clamped] = half
                self.constants[half] = numpy_helper.from_array(values, half)
            return self.halves[name, clamped]
        if name not in self.now:
            raise InputError(f"tensor {name}: is read before it is made; export the model again")
        if self.now[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            cast = fresh_name(self.taken, f"{name}/{'fp16' if wanted == FLOAT16 else 'fp32'}")
            self.casts[name, wanted] = cast
            self.body.append(
                helper.make_node("Cast", [name], [cast], fresh_name(self.taken, f"{cast}/Cast"), to=wanted)
            )
        return self.casts[name, wanted]

    def _return_as_float(self, name: str) -> None:
        """Keep the name and type of an output of the graph; its node and its other readers use a new name."""
        inner = fresh_name(self.taken, f"{name}/fp16")
        for node in self.body:
            for names in (node.input, node.output):
                for index, used in enumerate(names):
                    if used == name:
                        names[index] = inner
        self.body.append(helper.make_node("Cast", [inner], [name], fresh_name(self.taken, f"{name}/Cast"), to=FLOAT))


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


def _to_float16(values: np.ndarray, name: str, clamped: int = 0) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.asarray(values.astype(np.float16))
    beyond = np.isinf(half) & np.isfinite(values)
    bounds = beyond & (np.sign(values) == clamped)
    half[bounds] = np.copysign(np.finfo(np.float16).max, values[bounds])
    if half.size == 1:
        vanished = (half == 0) & (values != 0)
        half[vanished] = np.copysign(np.finfo(np.float16).smallest_subnormal, values[vanished])
    if np.any(beyond & ~bounds):
        raise InputError(f"{name}: {np.abs(values[beyond]).max():.3g} exceeds float16's 65504; build it without fp16")
    return half
