"""The graph in which ONNX Runtime multiplies quantised weights is the graph as it was written."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.onnx_graph.float32 import widen_to_float32
from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.precision.qdq import quantizable
from alexnet_deploy.precision.weights import WeightQuantiser
from alexnet_deploy.runtime.lowering.nbits import multiply_in_blocks
from tests.helpers.models.graphs import graph_model, run_graph

ROUNDING = 1e-5
"""Of the largest logit: sums of some hundred products in float32, in another order."""


def same_answers(model: onnx.ModelProto, **feeds: Any) -> dict[str, str]:
    (written,) = run_graph(model, basic=True, **feeds)
    found = multiply_in_blocks(model)
    (lowered,) = run_graph(model, **feeds)
    np.testing.assert_allclose(lowered, written, rtol=0, atol=ROUNDING * np.abs(written).max())
    return found


@given(st.data())
@settings(max_examples=25)
def test_our_engines(data: st.DataObject) -> None:
    """A convolution and dense layers of any size, with and without bias, as Gemm and as MatMul."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    channels, hidden = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 300))
    weights = {
        "k": rng.normal(size=(channels, 2, 3, 3)), "w": rng.normal(size=(hidden, channels * 25)),
        "b": rng.normal(size=hidden), "v": rng.normal(size=(hidden, 4)),
    }  # fmt: skip
    bias = data.draw(st.sampled_from(["", ", b"]))
    body = f"c = Conv (x, k); r = Relu (c); f = Flatten (r); g = Gemm <transB=1> (f, w{bias}); y = MatMul (g, v)"
    float32 = {name: values.astype(np.float32) for name, values in weights.items() if bias or name != "b"}
    model = graph_model("(float[N,2,7,7] x) => (float[N,4] y)", body, **float32)
    dtype = data.draw(st.sampled_from(["int4", "int8-weights"]))
    nodes = quantizable(model, dtype)
    assert [node.op_type for node in nodes] == (["Gemm", "MatMul"] if dtype == "int4" else ["Conv", "Gemm", "MatMul"])
    WeightQuantiser(dtype, None).insert(model, nodes)
    onnx.checker.check_model(model, full_check=True)
    x = rng.normal(size=(data.draw(st.integers(1, 3)), 2, 7, 7)).astype(np.float32)
    found = same_answers(model, x=x)
    kinds = {"MatMulNBits" if name in ("g", "y") and dtype == "int4" else "float32" for name in found}
    assert {text.split(" ")[0].rstrip(",") for text in found.values()} == kinds


def test_float16_between_the_layers_is_left_out() -> None:
    """As the runner widens it: the answers differ by no more than float16's rounding."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(300, 50)).astype(np.float32), "v": rng.normal(size=(50, 5)).astype(np.float32)}
    model = graph_model(
        "(float[N,300] x) => (float[N,5] y)", "h = MatMul (x, w); r = Relu (h); y = MatMul (r, v)", **weights
    )
    WeightQuantiser("int4", None).insert(model, quantizable(model, "int4"))
    half = cast_to_float16(model)
    x = rng.normal(size=(4, 300)).astype(np.float32)
    (written,) = run_graph(half, basic=True, x=x)
    widen_to_float32(half, (onnx.TensorProto.FLOAT16,), "here")
    del half.graph.value_info[:]
    assert [*multiply_in_blocks(half).values()] == ["MatMulNBits on int4"] * 2
    (lowered,) = run_graph(half, x=x)
    # Two layers of 11 bits.
    np.testing.assert_allclose(lowered, written, rtol=0, atol=5e-3 * np.abs(written).max())


@pytest.mark.parametrize(
    ("weight", "scale", "attributes"),
    [
        ((64, 6), (2, 6), "axis=0, block_size=32"),
        ((64, 6), (2, 6), "axis=-2, block_size=32"),
        ((60, 6), (2, 6), "axis=0, block_size=32"),
        ((64, 6), (8, 6), "axis=0, block_size=8"),
        ((60, 6), (3, 6), "axis=0, block_size=20"),
        ((64, 6), (64, 2), "axis=1, block_size=3"),
        ((32, 32), (32, 2), "axis=1, block_size=16"),
        ((32, 32), (32, 2), "axis=-1, block_size=16"),
        ((64, 6), (6,), "axis=1"),
        ((64, 6), (64,), "axis=0"),
        ((64, 6), (), ""),
    ],
)
@pytest.mark.parametrize("zero", ["none", "zeros", "others"])
def test_forms_of_other_tools(weight: tuple[int, ...], scale: tuple[int, ...], attributes: str, zero: str) -> None:
    rng = np.random.default_rng(0)
    constants = {"q": rng.integers(-8, 8, weight).astype(ml_dtypes.int4)}
    constants["s"] = rng.uniform(0.1, 0.2, scale).astype(np.float32)
    if zero != "none":
        constants["z"] = (rng.integers(-3, 3, scale) * (zero == "others")).astype(ml_dtypes.int4)
    dequantise = f"w = DequantizeLinear{f' <{attributes}>' if attributes else ''} ({', '.join(constants)})"
    model = graph_model(f"(float[N,{weight[0]}] x) => (float[N,d] y)", f"{dequantise}; y = MatMul (x, w)", **constants)
    found = same_answers(model, x=rng.normal(size=(3, weight[0])).astype(np.float32))
    nbits = "block_size=32" in attributes and zero != "others"
    assert found == {"y": "MatMulNBits on int4" if nbits else "float32, its weight dequantised once"}


def test_a_weight_that_is_computed_stays() -> None:
    body = "q = QuantizeLinear (v, s, z); w = DequantizeLinear (q, s, z); y = MatMul (x, w)"
    constants = {"s": np.float32(0.1), "z": np.int8(0)}
    model = graph_model("(float[N,3] x, float[3,2] v) => (float[N,2] y)", body, **constants)
    assert multiply_in_blocks(model) == {}
