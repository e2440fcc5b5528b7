"""Two small ONNX models with which the peak of a roofline is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET

_FLOATS = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_FLOAT_NODES = """
    cast = Cast <to = {kind}> (x)
    made = {op} (cast, w)
    y = Cast <to = 1> (made)
"""
_INT8_NODES = """
    w_dq = DequantizeLinear (w, scale, zero)
    x_q = QuantizeLinear (x, scale, zero)
    x_dq = DequantizeLinear (x_q, scale, zero)
    made = {op} (x_dq, w_dq)
    made_q = QuantizeLinear (made, out_scale, zero)
    y = DequantizeLinear (made_q, out_scale, zero)
"""
"""Runtimes use an integer kernel only if the output is quantised as well."""


@dataclass(frozen=True, slots=True)
class PeakModel:
    """One node ``op`` on an input and a constant weight; the input is float32 and called ``x``."""

    op: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    attributes: str
    """In ONNX's text form."""

    @property
    def flops(self) -> int:
        """2 x multiply-accumulates of one call."""
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Random numbers, because some units are faster with zeros."""
        return {"x": _random(self.input_shape)}

    def save(self, path: Path, precision: str) -> bool:
        """Write the model at ``precision``; False if it has no such form."""
        weight, kind = _random(self.weight_shape) / 8, _FLOATS.get(precision)
        if kind is not None:
            nodes, constants = _FLOAT_NODES, {"w": weight.astype(kind)}
        elif precision == "int8":
            nodes = _INT8_NODES
            constants = {
                "w": np.clip(np.rint(weight * 512), -127, 127).astype(np.int8),
                "scale": np.array(1 / 32, np.float32),
                "zero": np.array(0, np.int8),
                "out_scale": np.array(4.0, np.float32),
            }
        else:
            return False
        nodes = nodes.format(op=f"{self.op} <{self.attributes}>", kind=kind and helper.np_dtype_to_tensor_dtype(kind))
        signature = f"(float{list(self.input_shape)} x) => (float{list(self.output_shape)} y)"
        graph = parser.parse_graph(f"peak {signature} {{{nodes}}}")
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return True


def _random(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


PEAK_MODELS = (
    PeakModel("Gemm", (1024, 1024), (1024, 1024), (1024, 1024), "transB = 1"),
    PeakModel("Conv", (4, 256, 28, 28), (256, 256, 3, 3), (4, 256, 28, 28), "pads = [1, 1, 1, 1]"),
)
"""Hundreds of operations per byte, each some milliseconds long. Weights of the Gemm are ``[N, K]``, as of a Conv."""
