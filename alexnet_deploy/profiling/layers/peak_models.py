"""Two small ONNX models that a machine computes as fast as it can: the peak of a roofline is measured with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET

_FLOATS = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, slots=True)
class PeakModel:
    """One node ``op`` on an input and a constant weight; the input is float32 and called ``x``."""

    op: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def flops(self) -> int:
        """2 x multiply-accumulates of one call."""
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Random numbers: some units are faster with zeros."""
        return {"x": _random(self.input_shape)}

    def save(self, path: Path, precision: str) -> bool:
        """Write the model at ``precision``; False where there is no such form."""
        weight = _random(self.weight_shape) / 8
        nodes: list[onnx.NodeProto] = []
        constants: list[TensorProto] = []

        def node(op: str, *inputs: str, output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
            return output

        def constant(name: str, values: NDArray[Any]) -> str:
            constants.append(numpy_helper.from_array(values, name))
            return name

        if precision in _FLOATS:
            kind = helper.np_dtype_to_tensor_dtype(_FLOATS[precision])
            x = node("Cast", "x", output="x/cast", to=kind) if precision != "fp32" else "x"
            w = constant("w", weight.astype(_FLOATS[precision]))
            result = node(self.op, x, w, output="made", **dict(self.attributes))
            node("Cast", result, output="y", to=TensorProto.FLOAT)
        elif precision == "int8":
            scale, zero = constant("scale", np.array(1 / 32, np.float32)), constant("zero", np.array(0, np.int8))
            w = constant("w/q", np.clip(np.rint(weight * 512), -127, 127).astype(np.int8))
            w = node("DequantizeLinear", w, scale, zero, output="w")
            q = node("QuantizeLinear", "x", scale, zero, output="x/q")
            x = node("DequantizeLinear", q, scale, zero, output="x/dq")
            result = node(self.op, x, w, output="made", **dict(self.attributes))
            # Runtimes take an integer kernel only if the output is quantised as well.
            out_scale = constant("out_scale", np.array(4.0, np.float32))
            q = node("QuantizeLinear", result, out_scale, zero, output="made/q")
            node("DequantizeLinear", q, out_scale, zero, output="y")
        else:
            return False
        graph = helper.make_graph(
            nodes,
            "peak",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.input_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, self.output_shape)],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return True


def _random(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


PEAK_MODELS = (
    PeakModel("Gemm", (1024, 1024), (1024, 1024), (1024, 1024), (("transB", 1),)),
    PeakModel("Conv", (4, 256, 28, 28), (256, 256, 3, 3), (4, 256, 28, 28), (("pads", [1, 1, 1, 1]),)),
)
"""Hundreds of operations per byte, each some milliseconds long. Weights of the Gemm are ``[N, K]``, as of a Conv."""
