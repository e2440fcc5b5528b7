"""Operators that ONNX Runtime adds to ONNX (domain com.microsoft) -> standard ones that compute the same.

ONNX Runtime writes them into models that it optimised or quantised. Other runtimes, the opset converter and the
quantiser do not know them. Definitions: ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in
from alexnet_deploy.onnx_graph.onnx_file import initializers

DOMAIN = "com.microsoft"


def rewrite_contributed(model: onnx.ModelProto, path: Path) -> None:
    """Replace the operators of ``DOMAIN`` in the main graph, in place; those that are not known here stay.

    InputError for one with a setting that has no standard form.
    """
    graph = model.graph
    if not any(node.domain == DOMAIN for node in graph.node):
        return
    writer = _Writer(names_in(graph), initializers(model), path)
    for node in graph.node:
        rewrite = _REWRITES.get(node.op_type) if node.domain == DOMAIN else None
        if rewrite is None:
            writer.nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            writer.start(node)
            rewrite(writer)
            writer.finish()
    del graph.node[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.weights)


class _Writer:
    """The standard nodes of one contributed node after another."""

    def __init__(self, taken: set[str], constants: dict[str, TensorProto], path: Path) -> None:
        self.taken, self.constants, self.path = taken, constants, path
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.old = onnx.NodeProto()
        self.attributes: dict[str, Any] = {}

    def start(self, node: onnx.NodeProto) -> None:
        self.old = node
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def finish(self) -> None:
        """The last node written gives the output of the old one."""
        self.nodes[-1].output[0] = self.old.output[0]

    def input(self, index: int) -> str:
        return self.old.input[index] if index < len(self.old.input) else ""

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = fresh_name(self.taken, f"{self.old.name or self.old.output[0]}/{op}")
        output = fresh_name(self.taken, f"{name}_output")
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def number(self, value: float) -> str:
        return self.weight(np.array(value, np.float32))

    def weight(self, values: NDArray[Any]) -> str:
        name = fresh_name(self.taken, f"{self.old.name or self.old.output[0]}/number")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def refuse(self, why: str) -> InputError:
        return InputError(
            f"{self.path}: operator {DOMAIN}.{self.old.op_type} (node {self.old.name!r}) has {why}, which no standard "
            "ONNX operator has; export the model without optimising it for ONNX Runtime"
        )

    def require(self, **values: object) -> None:
        """InputError if an attribute is there with another value."""
        for name, value in values.items():
            if self.attributes.pop(name, value) != value:
                raise self.refuse(f"another {name} than {value}")

    def dequantized(self, at: int, axis: int = 0) -> str:
        """The numbers of the quantised tensor, scale and zero point at ``at`` and the two inputs after it.

        Several scales run along ``axis``.
        """
        scale = self.constants.get(self.input(at + 1))
        along = {"axis": axis} if scale is not None and list(scale.dims) not in ([], [1]) else {}
        return self.node("DequantizeLinear", self.input(at), self.single(at + 1), self.single(at + 2), **along)

    def quantized(self, tensor: str, at: int) -> str:
        """``tensor`` with the scale and the zero point at ``at`` and ``at + 1``."""
        return self.node("QuantizeLinear", tensor, self.single(at), self.single(at + 1))

    def single(self, index: int) -> str:
        """An input; of shape [], where it holds one number as [1], which ONNX takes for one per channel."""
        tensor = self.constants.get(self.input(index))
        if tensor is None or list(tensor.dims) != [1]:
            return self.input(index)
        return self.weight(numpy_helper.to_array(tensor).reshape(()))

    def activation(self, tensor: str, name: str, parameters: list[float]) -> str:
        """``tensor`` through the activation that a fused operator names."""
        fields = {"Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
        if name == "Clip" and len(parameters) == 2:
            low, high = (self.number(value) for value in parameters)
            return self.node("Min", self.node("Max", tensor, low), high)
        if name not in fields or len(parameters) > len(fields[name]):
            raise self.refuse(f"the activation {name}")
        return self.node(name, tensor, **dict(zip(fields[name], parameters, strict=False)))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _fused_conv(w: _Writer) -> None:
    name = _text(w.attributes.pop("activation", "Relu"))
    parameters = [float(value) for value in w.attributes.pop("activation_params", ())]
    tensor = w.node("Conv", w.input(0), w.input(1), w.input(2), **w.attributes)
    if w.input(3):
        tensor = w.node("Add", tensor, w.input(3))
    w.activation(tensor, name, parameters)


def _fused_gemm(w: _Writer) -> None:
    name = _text(w.attributes.pop("activation", "Relu"))
    keys = ("activation_alpha", "activation_beta", "activation_gamma")
    parameters = [float(w.attributes.pop(key)) for key in keys if key in w.attributes]
    w.activation(w.node("Gemm", w.input(0), w.input(1), w.input(2), **w.attributes), name, parameters)


def _gelu(w: _Writer) -> None:
    x = w.node("Add", w.input(0), w.input(1)) if w.input(1) else w.input(0)
    error = w.node("Erf", w.node("Mul", x, w.number(math.sqrt(0.5))))
    w.node("Mul", w.node("Mul", x, w.node("Add", error, w.number(1.0))), w.number(0.5))


def _fast_gelu(w: _Writer) -> None:
    x = w.node("Add", w.input(0), w.input(1)) if w.input(1) else w.input(0)
    cubic = w.node("Mul", w.node("Mul", w.node("Mul", x, x), x), w.number(0.044715))
    inner = w.node("Mul", w.node("Add", x, cubic), w.number(math.sqrt(2 / math.pi)))
    w.node("Mul", w.node("Mul", x, w.node("Add", w.node("Tanh", inner), w.number(1.0))), w.number(0.5))


def _quick_gelu(w: _Writer) -> None:
    x = w.input(0)
    w.node("Mul", x, w.node("Sigmoid", w.node("Mul", x, w.number(w.attributes.get("alpha", 1.702)))))


def _quantized(op: str, operands: int = 1) -> Callable[[_Writer], None]:
    """``op`` on dequantised operands, each with its scale and zero point; the result is quantised again."""

    def rewrite(w: _Writer) -> None:
        w.require(channels_last=0, opset=w.attributes.get("opset"))
        inputs = [w.dequantized(3 * i) for i in range(operands)]
        tensor = w.node(op, *inputs, **w.attributes)
        w.quantized(tensor, 3 * operands)

    return rewrite


def _quantized_concat(w: _Writer) -> None:
    inputs = [w.dequantized(at) for at in range(2, len(w.old.input), 3)]
    w.quantized(w.node("Concat", *inputs, **w.attributes), 0)


def _quantized_gemm(w: _Writer) -> None:
    a, b = w.dequantized(0), w.dequantized(3, axis=0 if w.attributes.get("transB") else 1)
    c = ""
    if w.input(6):
        c = w.node("Mul", w.node("Cast", w.input(6), to=TensorProto.FLOAT), w.node("Mul", w.input(1), w.input(4)))
    alpha = w.attributes.get("alpha", 1.0)  # the bias has the scale alpha x a x b
    if c and alpha != 1.0:
        c = w.node("Mul", c, w.number(alpha))
    tensor = w.node("Gemm", a, b, c, **w.attributes)
    if w.input(7):
        w.quantized(tensor, 7)


def _standard(w: _Writer) -> None:
    """The operator of ONNX with the same name does the same."""
    w.node(w.old.op_type, *w.old.input, **w.attributes)


_REWRITES: dict[str, Callable[[_Writer], None]] = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "QLinearAdd": _quantized("Add", 2),
    "QLinearMul": _quantized("Mul", 2),
    "QLinearAveragePool": _quantized("AveragePool"),
    "QLinearGlobalAveragePool": _quantized("GlobalAveragePool"),
    "QLinearLeakyRelu": _quantized("LeakyRelu"),
    "QLinearSigmoid": _quantized("Sigmoid"),
    "QLinearConcat": _quantized_concat,
    "QGemm": _quantized_gemm,
    "QuantizeLinear": _standard,
    "DequantizeLinear": _standard,
}
