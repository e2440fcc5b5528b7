"""The precision of a file is the type in which its convolutions and products compute, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.float32 import OTHER_FLOATS, widen_to_float32
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, precision_in
from tests.helpers.models.graphs import graph_model, run_graph
from tests.helpers.models.onnx_models import PRECISIONS, tiny_classifier

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
SCALES = {"s": np.float32(0.1), "z": np.int8(0)}
HALF, INT4 = np.float16(0.1), np.eye(3).astype(ml_dtypes.int4)


def product(body: str, kind: str = "float", **weights: Any) -> onnx.ModelProto:
    weights = {"w": np.eye(3, dtype=np.float32), **weights}
    return graph_model(f"({kind}[N,3] x) => ({kind}[N,3] y)", body, **weights)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ours(precision: str, tmp_path: Path) -> None:
    assert precision_in(load_onnx(tiny_classifier(tmp_path / "net.onnx", precision))) == precision


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (product("y = MatMul (x, w)"), "fp32"),
        (product("h = Cast <to = 10> (x); v = Cast <to = 10> (w); p = MatMul (h, v); y = Cast <to = 1> (p)"), "fp16"),
        (
            product("p = MatMul (x, w); y = Mul (p, h)", "float16", w=np.eye(3, dtype=np.float16), h=np.float16(1)),
            "fp16",
        ),
        # A float16 that no product reads, and int8 numbers of which one operand alone is made, compute in float32.
        (product("u = Cast <to = 1> (h); p = MatMul (x, w); y = Mul (p, u)", h=np.float16(2)), "fp32"),
        (
            product("d = DequantizeLinear (v, s, z); y = MatMul (x, d)", v=np.eye(3, dtype=np.int8), **SCALES),
            "fp32",
        ),
        (
            product("d = DequantizeLinear (v, s); y = MatMul (x, d)", "float16", v=np.eye(3, dtype=np.int8), s=HALF),
            "int8-weights",
        ),
        (
            product("d = DequantizeLinear (v, s); y = MatMul (x, d)", "float16", v=INT4, s=HALF),
            "int4",
        ),
        (
            product(
                "q = QuantizeLinear (x, s, z); a = DequantizeLinear (q, s, z); d = DequantizeLinear (v, s, z);"
                "y = MatMul (a, d)",
                v=np.eye(3, dtype=np.int8),
                **SCALES,
            ),
            "int8",
        ),
        (
            product(
                "q = QuantizeLinear (x, s, z); p = QLinearMatMul (q, s, z, v, s, z, s, z);"
                "y = DequantizeLinear (p, s, z)",
                v=np.eye(3, dtype=np.int8),
                **SCALES,
            ),
            "int8",
        ),
        (graph_model("(float[N,3] x) => (float[N,3] y)", "y = Relu (x)"), "fp32"),
    ],
    ids=[
        "float",
        "cast to half",
        "half",
        "an unused half",
        "weight alone",
        "int8 weight, half",
        "int4 weight, half",
        "Q/DQ",
        "QLinear",
        "no product",
    ],
)
def test_by_what_the_products_read(model: onnx.ModelProto, expected: str) -> None:
    assert precision_in(model) == expected


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(kind: Any) -> None:
    onnx_type = {np.float16: "float16", np.float64: "double"}.get(kind, "bfloat16")
    weight = np.array([[0.1, 1, 2], [3, 4, 5], [6, 7, 8]]).astype(kind)
    model = product("c = Constant <value_float = 0.5> (); h = Cast <to = 1> (x); i = Cast <to = 1> (w);"
                    "p = MatMul (h, i); q = Add (p, c); y = CastLike (q, x)", onnx_type, w=weight)  # fmt: skip
    assert widen_to_float32(model, OTHER_FLOATS, "net")
    assert not widen_to_float32(model, OTHER_FLOATS, "net")
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight.astype(np.float32))
    (actual,) = run_graph(model, x=X)
    np.testing.assert_allclose(actual, X @ weight.astype(np.float32) + 0.5, rtol=1e-6)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_float64_beyond_float32() -> None:
    with pytest.raises(InputError, match="net: weight w exceeds float32"):
        widen_to_float32(product("y = MatMul (x, w)", "double", w=np.full((3, 3), 1e300)), OTHER_FLOATS, "net")
