"""The int8 graph that ONNX Runtime computes in integers is the graph as it was written, but for rounded biases."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from alexnet_deploy.runtime.lowering.integer import Lowered, to_integers
from tests.helpers.models.graphs import graph_model
from tests.runtime.lowering.integer_graphs import BATCH, CHANNELS, SIDE, Network, integer_layers, quantised, run


def with_rounded_biases(model: onnx.ModelProto, layers: list[str]) -> onnx.ModelProto:
    """``model`` with each bias of ``layers`` in whole steps of its sums: the scale of its input times its weight's."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    makers = {node.output[0]: node for node in changed.graph.node}
    for node in changed.graph.node:
        if node.name in layers and len(node.input) == 3:
            x, w = (numpy_helper.to_array(constants[makers[name].input[1]]) for name in node.input[:2])
            bias = numpy_helper.to_array(constants[node.input[2]])
            rounded = np.rint(bias.astype(np.float64) / (x * w)).astype(np.float32) * (x * w)
            assert np.abs(rounded - bias).max() <= 0.51 * (x * w).max()  # half a step, and the product's own rounding
            constants[node.input[2]].CopyFrom(numpy_helper.from_array(rounded, node.input[2]))
    return changed


KINDS = (
    "relu",
    "relu",
    "relu",
    "relu6",
    "clip",
    "conv",
    "groups",
    "pool",
    "ceil",
    "lrn",
    "turn",
    "residual",
    "branches",
)


@settings(max_examples=60, deadline=None)
@example(["conv", "pool", "clip"], False, 794596577)  # a Clip below 0 in front of a Flatten
@given(st.lists(st.sampled_from(KINDS), min_size=2, max_size=7), st.booleans(), st.integers(0, 2**32 - 1))
def test_random_graphs_compute_the_same_bits(kinds: list[str], hidden: bool, seed: int) -> None:
    network = Network(seed)
    network.conv()
    for kind in kinds:
        network.block(kind)
    written = quantised(network.model(hidden=hidden), network.rng)
    lowered = onnx.ModelProto.FromString(written.SerializeToString())
    found = to_integers(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    assert len(found.fused) + len(found.left) == sum(len(each.input) > 1 and each.op_type in ("Conv", "Gemm", "MatMul")
                                                     for each in written.graph.node)  # fmt: skip
    images = network.rng.normal(0, 1, (BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)
    expected = run(with_rounded_biases(written, found.fused), images, "ORT_DISABLE_ALL")
    np.testing.assert_array_equal(run(lowered, images, "ORT_DISABLE_ALL"), expected)
    assert len(integer_layers(lowered)) == len(found.fused)


def test_an_alexnet_has_no_float_layer_left() -> None:
    network = Network(0)
    for kind in ("conv", "relu", "pool", "groups", "relu", "conv", "relu", "pool"):
        network.block(kind)
    model = quantised(network.model(hidden=True), network.rng)
    found = to_integers(model)
    assert (len(found.fused), found.left) == (5, {})
    assert integer_layers(model) == ["QLinearConv"] * 3 + ["QGemm", "MatMulIntegerToFloat"]


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (("conv", "relu", "lrn", "conv", "relu"), "Relu reads it before it is quantised again"),
        (("conv", "residual", "relu"), "Add reads it before it is quantised again"),
        (("conv", "relu", "ceil"), "Relu reads it before it is quantised again"),
    ],
)
def test_what_stays_in_float_is_named_and_its_weights_are_dequantised_once(kinds: tuple[str, ...], reason: str) -> None:
    network = Network(1)
    for kind in kinds:
        network.block(kind)
    model = quantised(network.model(hidden=False), network.rng)
    found = to_integers(model)
    assert reason in found.left.values()
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    weights = {node.name: makers.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"}
    assert {name for name, maker in weights.items() if maker is None} == set(found.left)


def test_a_bias_beyond_32_bits_stays() -> None:
    """Our own scales hold every bias; those of other tools need not."""
    network = Network(2)
    network.conv()
    network.block("relu")
    model = quantised(network.model(hidden=False), network.rng)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(bias) + np.float32(1e9)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    assert to_integers(model).left == {"t0": "its sums can exceed 32 bits"}


@pytest.mark.parametrize("shape", [(1,), (1, 5), ()])
def test_a_bias_that_is_broadcast_stays(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    weights = {"w": rng.normal(0, 1, (4, 5)).astype(np.float32), "b": rng.normal(0, 1, shape).astype(np.float32)}
    model = quantised(graph_model("(float[N,4] x) => (float[N,5] y)", "y = Gemm(x, w, b)", **weights), rng)
    images = rng.normal(0, 1, (BATCH, 4)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model).left == {"y": "its bias is no constant of one number per output"}
    np.testing.assert_array_equal(run(model, images, "ORT_DISABLE_ALL"), expected)


@pytest.mark.parametrize(
    ("attributes", "left"),
    [
        ("beta=3.0", {}),
        ("beta=0.0", {}),
        ("transA=1, transB=1", {}),
        ("alpha=0.5", {"y": "its products have a factor (alpha) and its bias has none"}),
    ],
)
def test_a_gemm_with_factors_is_fused_or_named(attributes: str, left: dict[str, str]) -> None:
    """Other tools quantise such layers as well. The kernel has no beta, and it multiplies the bias by alpha."""
    rng = np.random.default_rng(5)
    w, b = rng.integers(-127, 128, (4, 4)).astype(np.int8), rng.normal(0, 3, 4).astype(np.float32)
    scales = {"sx": np.float32(0.02), "sw": np.float32(0.01), "z": np.int8(0)}
    quantised = "q = QuantizeLinear(x, sx, z); f = DequantizeLinear(q, sx, z); g = DequantizeLinear(w, sw, z)"
    body = f"{quantised}; y = Gemm<{attributes}>(f, g, b)"
    model = graph_model("(float[4,4] x) => (float[4,4] y)", body, w=w, b=b, **scales)
    images = rng.normal(0, 1, (4, 4)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model) == Lowered([] if left else ["y"], left)
    assert integer_layers(model) == ([] if left else ["QGemm"])
    # Half a step of the bias is 1e-4 (0.02 x 0.01 / 2). A factor that is missed is off by 1 and more.
    np.testing.assert_allclose(run(model, images, "ORT_ENABLE_ALL"), expected, rtol=0, atol=1.1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_without_a_quantised_input_is_dequantised_along_its_axis(axis: int) -> None:
    weight = np.arange(-6, 6).reshape(4, 3).astype(np.int8)
    scale = np.array([0.1, 0.2, 0.3, 0.4][: weight.shape[axis]], np.float32)
    body = f"f = DequantizeLinear<axis={axis}>(w, s, z); y = MatMul(x, f)"
    model = graph_model("(float[N,4] x) => (float[N,3] y)", body, w=weight, s=scale, z=np.zeros_like(scale, np.int8))
    images = np.random.default_rng(0).normal(0, 1, (2, 4)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model).left == {"y": "its input is not quantised"}
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    np.testing.assert_array_equal(run(model, images, "ORT_DISABLE_ALL"), expected)
