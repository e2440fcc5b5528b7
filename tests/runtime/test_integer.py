"""The int8 graph that ONNX Runtime computes in integers is the graph as it was written, but for rounded biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from alexnet_deploy.onnx_graph.onnx_file import save_onnx
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from alexnet_deploy.runtime.integer import integer_model, to_integers
from tests.helpers.models.graphs import graph_model

CHANNELS, SIDE, BATCH = 4, 9, 3


class Network:
    """A graph that grows at its end, with the side of its pictures; weights are drawn."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[str] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.x, self.side = "x", SIDE

    def add(self, text: str) -> str:
        """A node such as ``Relu ({x})``; its output is the new end."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(f"{name} = {text.format(x=self.x)}")
        self.x = name
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.normal(0, 0.5, shape).astype(np.float32)
        return name

    def conv(self, groups: int = 1, bias: bool = True) -> str:
        operands = [self.weight(CHANNELS, CHANNELS // groups, 3, 3), *([self.weight(CHANNELS)] if bias else [])]
        return self.add(f"Conv<pads=[1,1,1,1], group={groups}>({{x}}, {', '.join(operands)})")

    def block(self, kind: str) -> None:
        before = self.x
        if kind == "relu":
            self.add("Relu({x})")
        elif kind == "conv":
            self.conv()
        elif kind == "groups":
            self.conv(groups=2, bias=False)
        elif kind == "pool" and self.side > 3:
            self.add("MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>({x})")
            self.side = (self.side - 1) // 2 + 1
        elif kind == "ceil" and self.side > 3:
            self.add("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>({x})")
            self.side = -(-self.side // 2)
        elif kind == "lrn":
            self.add("LRN<size=3>({x})")
        elif kind == "turn":
            self.add("Transpose<perm=[0,1,3,2]>({x})")
        elif kind == "residual":
            self.conv()
            self.add(f"Add({{x}}, {before})")
        elif kind == "branches":
            first = self.conv()
            self.x = before
            self.conv()
            self.add(f"Add({{x}}, {first})")

    def model(self, *, hidden: bool) -> onnx.ModelProto:
        self.add("Flatten({x})")
        size = CHANNELS * self.side**2
        if hidden:
            self.add(f"Gemm<transB=1>({{x}}, {self.weight(8, size)}, {self.weight(8)})")
            self.add("Relu({x})")
            size = 8
        self.add(f"MatMul({{x}}, {self.weight(size, 5)})")
        signature = f"(float[N,{CHANNELS},{SIDE},{SIDE}] x) => (float[N,5] {self.x})"
        return graph_model(signature, "; ".join(self.nodes), **self.weights)


def quantised(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    nodes = quantizable(model, "int8")
    # Some ranges are too small for their values, so that both ends of int8 are reached.
    insert_qdq(model, nodes, {node.input[0]: float(rng.uniform(0.5, 6)) for node in nodes}, "int8")
    return model


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


def run(model: onnx.ModelProto, images: NDArray[Any], level: str, saved: Path | None = None) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(found)


KINDS = ("relu", "relu", "relu", "conv", "groups", "pool", "ceil", "lrn", "turn", "residual", "branches")


@settings(max_examples=100, deadline=None)
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


def test_an_alexnet_has_no_float_layer_left(tmp_path: Path) -> None:
    network = Network(0)
    for kind in ("conv", "relu", "pool", "groups", "relu", "conv", "relu", "pool"):
        network.block(kind)
    model = quantised(network.model(hidden=True), network.rng)
    found = to_integers(model)
    assert (len(found.fused), found.left) == (5, {})
    run(model, np.zeros((1, CHANNELS, SIDE, SIDE), np.float32), "ORT_ENABLE_ALL", tmp_path / "fused.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "DequantizeLinear"}.intersection(kinds)
    assert sum(kind.startswith(("QLinearConv", "QGemm", "MatMulIntegerToFloat")) for kind in kinds) == 5


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
    network = Network(2)
    network.conv()
    network.block("relu")
    network.weights["w1"][0] = 1e9
    model = quantised(network.model(hidden=False), network.rng)
    assert to_integers(model).left == {"t0": "its bias exceeds 32 bits of its steps"}


@pytest.mark.parametrize("shape", [(1,), (1, 5), ()])
def test_a_bias_that_is_broadcast_stays(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    weights = {"w": rng.normal(0, 1, (4, 5)).astype(np.float32), "b": rng.normal(0, 1, shape).astype(np.float32)}
    model = quantised(graph_model("(float[N,4] x) => (float[N,5] y)", "y = Gemm(x, w, b)", **weights), rng)
    images = rng.normal(0, 1, (BATCH, 4)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model).left == {"y": "its bias is no constant of one number per output"}
    np.testing.assert_array_equal(run(model, images, "ORT_DISABLE_ALL"), expected)


def test_float_graph_stays_as_it_is(tmp_path: Path) -> None:
    network = Network(3)
    network.conv()
    network.block("relu")
    assert integer_model(save_onnx(network.model(hidden=True), tmp_path / "float.onnx")) is None


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
