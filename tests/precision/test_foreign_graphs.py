"""Graphs of other tools in all precisions: names like ours, bounds beyond float16, sums beyond it, other types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.edits import rename_tensors
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.convert import to_fp16
from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from tests.helpers.models.graphs import graph_model, run_graph

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4, 4)).astype(np.float32)
V, W = (RANDOM.normal(size=(3, 3, 1, 1)).astype(np.float32) for _ in range(2))
LARGEST = np.finfo(np.float32).max


def model_of(body: str, **weights: Any) -> onnx.ModelProto:
    return graph_model("(float[2,3,4,4] x) => (float[a,b,c,d] y)", body, **weights)


def small_net() -> onnx.ModelProto:
    return model_of("a = Conv (x, v); b = Relu (a); c = Conv (b, w); y = Add (c, b)", v=V, w=W)


def quantised(model: onnx.ModelProto, half: bool = False) -> onnx.ModelProto:
    nodes = quantizable(model, "int8")
    insert_qdq(model, nodes, {node.input[0]: 4.0 for node in nodes}, "int8")
    return cast_to_float16(model) if half else model


OURS = [
    f"{tensor}{end}"
    for tensor in ("x", "a", "b", "v", "w", "y")
    for end in ("", "/scale", "/zero", "/q", "/dq", "/fp16", "/fp32", "/fp16/Cast", "/QuantizeLinear", "/fp16_2")
]


@given(names=st.lists(st.sampled_from(OURS), min_size=5, max_size=5, unique=True), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_tensors_and_nodes_may_have_any_names(names: list[str], seed: int) -> None:
    plain, renamed = small_net(), small_net()
    new = dict(zip(("a", "b", "c", "v", "w"), names, strict=True))
    new = {old: f"{name}'" if name in ("x", "y") else name for old, name in new.items()}
    rename_tensors(renamed.graph, new)
    for node, index in zip(renamed.graph.node, np.random.default_rng(seed).permutation(len(OURS)), strict=False):
        node.name = OURS[index]
    for convert in (cast_to_float16, quantised, lambda model: quantised(model, half=True)):
        expected, actual = (convert(onnx.ModelProto.FromString(m.SerializeToString())) for m in (plain, renamed))
        onnx.checker.check_model(actual, full_check=True)
        node_names = [node.name for node in actual.graph.node]
        assert len(set(node_names)) == len(node_names)
        np.testing.assert_array_equal(run_graph(actual, basic=True, x=X)[0], run_graph(expected, basic=True, x=X)[0])


class TestBounds:
    @pytest.mark.parametrize(
        ("body", "weights"),
        [
            ("y = Clip (x, low, high)", {"low": 0, "high": LARGEST}),
            ("y = Clip (x, low)", {"low": -LARGEST}),
            ("y = Min (x, high)", {"high": LARGEST}),
            ("y = Max (x, low)", {"low": -1e5}),
            ("p = Pad (x, pads, low); y = MaxPool <kernel_shape = [3, 3]> (p)", {"low": -LARGEST}),
            ("m = Where (yes, x, low); y = Softmax (m)", {"low": -LARGEST}),
        ],
    )
    def test_a_bound_beyond_float16_is_none(self, body: str, weights: dict[str, float]) -> None:
        operands: dict[str, Any] = {name: np.float32(value) for name, value in weights.items()}
        more = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "yes": np.arange(4) > 0}
        model = model_of(body, **operands, **{name: values for name, values in more.items() if f"{name}" in body})
        half = cast_to_float16(model)
        onnx.checker.check_model(half, full_check=True)
        # One rounding of the input and one of the result to float16's 11 bits.
        np.testing.assert_allclose(run_graph(half, x=X)[0], run_graph(model, x=X)[0], rtol=2**-10, atol=1e-6)

    @pytest.mark.parametrize(
        ("body", "value"),
        [
            ("y = Clip (x, w)", LARGEST),
            ("y = Min (x, w)", -LARGEST),
            ("y = Max (x, w)", LARGEST),
            ("p = Pad (x, pads, w); y = Relu (p)", -LARGEST),
            ("m = Where (yes, x, w); y = Relu (m)", -LARGEST),
            ("y = Mul (x, w)", 1e6),
        ],
    )
    def test_where_it_counts_it_is_refused(self, body: str, value: float) -> None:
        more = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "yes": np.arange(4) > 0}
        used = {name: values for name, values in more.items() if name in body}
        with pytest.raises(InputError, match=r"^w: .* exceeds float16's 65504"):
            cast_to_float16(model_of(body, w=np.float32(value), **used))

    def test_a_bound_that_is_also_a_factor(self) -> None:
        with pytest.raises(InputError, match=r"^w: .* exceeds"):
            cast_to_float16(model_of("a = Min (x, w); y = Mul (a, w)", w=np.float32(LARGEST)))


@pytest.mark.parametrize(
    "body",
    [
        "n = MeanVarianceNormalization <axes = [2, 3]> (x); y = Relu (n)",
        "n = InstanceNormalization (x, ones, zeros); y = Relu (n)",
        "n = LayerNormalization <axis = 3> (x, four); y = Relu (n)",
        "y = ReduceSumSquare (x)",  # itself beyond float16
        "n = ReduceL2 (x); y = Relu (n)",
        "n = LpNormalization (x); y = Relu (n)",
    ],
)
def test_sums_of_squares_stay_float32(body: str) -> None:
    """Of values of a few hundred: they exceed float16, and what is made of them does not."""
    operands: dict[str, NDArray[np.float32]] = {
        "ones": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.float32),
        "four": np.ones(4, np.float32),
    }
    model = model_of(body, **{n: v for n, v in operands.items() if n in body})
    half = cast_to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    expected, actual = (run_graph(each, x=200 * X)[0] for each in (model, half))
    # The input and the result are rounded to 11 bits; normalising takes differences of rounded numbers.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2**-8 * np.abs(expected).max())


def test_two_layers_that_read_one_weight_along_different_axes() -> None:
    """Each gets scales along its own output channels."""
    weight = np.diag([1.0, 10.0, 100.0]).astype(np.float32) + 0.01
    model = graph_model("(float[2,3] x) => (float[2,3] y)", "a = Gemm <transB = 1> (x, w); y = Gemm (a, w)", w=weight)
    nodes = quantizable(model, "int8")
    insert_qdq(model, nodes, {node.input[0]: 4.0 for node in nodes}, "int8")
    onnx.checker.check_model(model, full_check=True)
    dequantised = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    axes = [helper.get_node_attr_value(dequantised[name], "axis") for name in ("w/q", "w/q_2")]
    assert axes == [0, 1]
    assert {tuple(initializers(model)[name].dims) for name in ("w/scale", "w/scale_2")} == {(3,)}


@pytest.mark.parametrize(
    "body",
    [
        "y = ConvTranspose (x, v)",
        "y = acme.Conv (x, v)",
        "d = Neg (v); y = Conv (x, d)",
        "y = MatMul (x, e)",
        "n = Cast <to = 6> (x); m = MatMul (n, i); y = Cast <to = 1> (m)",
    ],
    ids=["ConvTranspose", "another domain", "a computed weight", "an empty weight", "a weight of whole numbers"],
)
def test_what_is_not_quantised(body: str) -> None:
    weights: dict[str, Any] = {"v": V, "e": np.zeros((4, 0), np.float32), "i": np.eye(4, dtype=np.int32)}
    assert quantizable(model_of(body, **weights), "int8") == []


def test_an_operator_whose_float16_form_fails_is_one_line(tmp_path: Path) -> None:
    model = graph_model("(float[2,3] x) => (float[2,3] y)", "a = Relu (x); y = ai.onnx.ml.Normalizer (a)")
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(onnx.load(to_fp16(path, tmp_path / "half.onnx")), full_check=True)
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 3])],
    )
    node = helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=branch)
    model = graph_model("(float[2,3] x) => (float[2,3] y)", [node])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"^mine.onnx: node choice: control flow"):
        to_fp16(path, tmp_path / "half.onnx", source="mine.onnx")
