"""What a graph's layers cost, worked out by hand, and which layer each kernel belongs to, by the names of runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from alexnet_deploy.errors import InputError
from alexnet_deploy.profiling.costs import Costs, Elements, multiplies
from alexnet_deploy.profiling.layers.counters.kernel_times import Kernel, KernelTimes
from alexnet_deploy.profiling.layers.grouping import LayerKernels, group_kernels
from tests.helpers.models.onnx_models import CLASSES, SIDE, Graph, named_engine, tiny_classifier


def costs_of(g: Graph, output: str, path: Path, shape: list[int | str], batch: int = 1) -> Costs:
    return Costs(g.save(output, path / "g.onnx", shape), batch)


@pytest.mark.parametrize(("groups", "per_output"), [(1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution_by_hand(tmp_path: Path, groups: int, per_output: int, batch: int) -> None:
    """8 channels to 16 over 10x10 without padding: 8x8 places, each 3x3 weights of 8 / groups channels."""
    g = Graph()
    conv = g.node("Conv", "pixels", g.weight(16, 8 // groups, 3, 3), g.weight(16), group=groups, name="features.0/Conv")
    costs = costs_of(g, conv, tmp_path, ["N", 8, 10, 10], batch)
    assert costs.flops(["features.0/Conv"]) == 2 * batch * 16 * 8 * 8 * per_output * 9
    assert costs.elements(["features.0/Conv"]) == Elements(
        inputs=batch * 8 * 10 * 10, weights=16 * per_output * 9 + 16, outputs=batch * 16 * 8 * 8
    )
    assert costs.layer("features.0/Conv") == "features.0"


@given(
    batch=st.integers(1, 4),
    groups=st.integers(1, 3),
    wide=st.integers(1, 3),
    side=st.integers(5, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
)
def test_a_convolution_is_what_its_definition_counts(
    tmp_path_factory: pytest.TempPathFactory, batch: int, groups: int, wide: int, side: int, kernel: int, stride: int
) -> None:
    channels_in, channels_out = 2 * groups, wide * groups
    g = Graph()
    conv = g.node(
        "Conv", "pixels", g.weight(channels_out, 2, kernel, kernel), group=groups, strides=[stride] * 2, name="c"
    )
    costs = costs_of(g, conv, tmp_path_factory.mktemp("g"), ["N", channels_in, side, side], batch)
    places = len(range(0, side - kernel + 1, stride)) ** 2
    multiplications = sum(2 * kernel * kernel for _ in range(batch * channels_out * places))
    assert costs.flops(["c"]) == 2 * multiplications


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_and_a_matmul_by_hand(tmp_path: Path, transposed: int) -> None:
    g = Graph()
    weight = g.weight(*((5, 7) if transposed else (7, 5)))
    gemm = g.node("Gemm", "pixels", weight, transB=transposed, name="gemm")
    matmul = g.node("MatMul", gemm, g.weight(5, 3), name="matmul")
    costs = costs_of(g, matmul, tmp_path, ["N", 7], batch=4)
    assert costs.flops(["gemm"]) == 2 * 4 * 7 * 5
    assert costs.flops(["matmul"]) == 2 * 4 * 5 * 3


def test_a_transposed_convolution_by_hand(tmp_path: Path) -> None:
    """Every one of 4x4 inputs meets each of 2x2 weights of 3 outputs."""
    g = Graph()
    up = g.node("ConvTranspose", "pixels", g.weight(8, 3, 2, 2), strides=[2, 2], name="up")
    assert costs_of(g, up, tmp_path, ["N", 8, 4, 4]).flops(["up"]) == 2 * 8 * 4 * 4 * 3 * 2 * 2


def test_what_is_fused_does_not_leave_the_kernel(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "tiny.onnx")
    costs = Costs(path, 2)
    conv = next(name for name in costs.nodes if name.startswith("conv"))
    fused = [conv, *costs.readers(conv)]  # its Relu
    pool = costs.readers(fused[-1])
    image, made = 2 * 3 * SIDE * SIDE, 2 * 16 * SIDE * SIDE
    weights = 16 * 3 * 3 * 3 + 16
    assert costs.elements([conv]) == costs.elements(fused) == Elements(image, weights, made)
    assert costs.elements(pool) == Elements(made, 0, made // 4)
    assert costs.elements(fused + pool) == Elements(image, weights, made // 4)


def test_quantised_weights_count_once_and_arithmetic_as_in_float(tmp_path: Path) -> None:
    float_costs = Costs(tiny_classifier(tmp_path / "a.onnx"), 2)
    costs = Costs(tiny_classifier(tmp_path / "b.onnx", "int8"), 2)
    assert costs.flops(costs.nodes) == float_costs.flops(float_costs.nodes) > 0
    conv = next(name for name in costs.nodes if name.startswith("conv"))
    weights = next(
        name
        for name in costs.nodes
        if costs.converts(name) and costs.before(name) is None and conv in costs.readers(name)
    )
    alone, fused = costs.elements([conv]), costs.elements([weights, conv])
    scale_and_zero = 2
    assert alone.weights == 16 * 27 + 16
    # Its quantised weight is no constant of the file here, but made by a QuantizeLinear of one.
    assert fused.weights == alone.weights + scale_and_zero
    assert fused.outputs == alone.outputs


def test_what_runtimes_call_a_node(tmp_path: Path) -> None:
    g = Graph()
    conv = g.node("Conv", "pixels", g.weight(4, 3, 1, 1), name="features.0/Conv")
    relu = g.node("Relu", conv, name="features.1/Relu")
    costs = costs_of(g, relu, tmp_path, ["N", 3, 4, 4])
    assert costs.find("features.0/Conv") == "features.0/Conv"
    assert costs.find("features.0/Conv/WithoutBiases") == "features.0/Conv"
    assert costs.find(f"{relu}_nchwc") == "features.1/Relu"
    assert costs.find("logits") == "logits"
    assert costs.find("features.0/Convolution") is None
    assert costs.find("Multiply_12") is None
    assert costs.before("features.1/Relu") == "features.0/Conv"
    assert costs.before("features.0/Conv") is None


def test_pixels_become_floats_in_a_layer_other_casts_convert(tmp_path: Path) -> None:
    costs = Costs(tiny_classifier(tmp_path / "tiny.onnx"), 1)
    casts = [name for name, node in costs.nodes.items() if node.op_type == "Cast"]
    assert [costs.converts(name) for name in casts] == [False, True]


def test_operators_of_arithmetic() -> None:
    assert all(map(multiplies, ("Convolution", "FusedGemm", "QLinearConv", "FullyConnected", "MatMul")))
    assert not any(map(multiplies, ("MaxPool", "Reorder", "Eltwise", "Convert")))


def test_a_shape_that_cannot_be_inferred(tmp_path: Path) -> None:
    g = Graph()
    shape = g.constant(np.array([0, -1], np.int64))
    size = g.node("Gather", g.node("NonZero", "pixels"), g.constant(np.array(0, np.int64)), name="size")
    with pytest.raises(InputError, match="the output shape of nonzero_0 cannot be inferred; export it again"):
        costs_of(g, g.node("Reshape", g.node("Cast", size, to=TensorProto.FLOAT), shape), tmp_path, ["N", 3])


def test_the_classifier_as_a_whole(tmp_path: Path) -> None:
    costs = Costs(tiny_classifier(tmp_path / "tiny.onnx"), 1)
    convolutions = sum(o * i * 9 * (SIDE >> n) ** 2 for n, (i, o) in enumerate([(3, 16), (16, 32), (32, 32)]))
    dense = 32 * (SIDE // 8) ** 2 * 32 + 32 * CLASSES
    assert costs.flops(costs.nodes) == 2 * (convolutions + dense)


def kernel(name: str, op: str = "Conv", us: float = 1.0) -> Kernel:
    return Kernel(name, op, op, (name,), "fp32", "fp32", "fp32", "fp32", (us,))


def groups_of(costs: Costs, *kernels: Kernel) -> list[LayerKernels]:
    return group_kernels(KernelTimes("fake", kernels, (999.0,)), costs)


def small_costs(folder: Path, precision: str = "fp32") -> tuple[Costs, list[str]]:
    """The small model's, and the names of its convolutions."""
    costs = Costs(named_engine(folder, precision).onnx_path, 1)
    return costs, [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]


def test_conversions_of_weights_belong_to_the_layer_that_multiplies_by_them(tmp_path: Path) -> None:
    """A runtime may run them all first; then the next row in time is another layer's."""
    costs, convolutions = small_costs(tmp_path, "int8")
    dequantize = next(  # of the last convolution's weight
        name for name in costs.nodes if convolutions[-1] in costs.readers(name) and costs.before(name) is None
    )
    first, *_ = groups_of(costs, kernel(dequantize, "DequantizeLinear"), *map(kernel, convolutions))
    assert first.overhead
    assert first.next_layer == "conv.2"


def test_what_no_kernel_names_is_fused_into_what_feeds_it(tmp_path: Path) -> None:
    costs, convolutions = small_costs(tmp_path)
    relu = costs.readers(convolutions[0])[0]
    assert relu == "relu.0/Relu"
    # ONNX Runtime names a fused convolution after the tensor that its activation gives.
    groups = groups_of(costs, kernel(f"{costs.nodes[relu].output[0]}_nchwc"), kernel(convolutions[1]))
    assert [group.layer for group in groups] == ["conv.0", "conv.1"]
    assert "relu.0" in groups[0].fused
    assert groups[0].kernels[0][1][0] in costs.nodes  # the casts of the pixels, which nobody names, are in it
    assert sum(group.flops for group in groups) == costs.flops(costs.nodes)


def test_what_prepares_a_bias_is_not_the_layer(tmp_path: Path) -> None:
    """ONNX Runtime computes a scale under the name of the convolution that it is for, and before it."""
    costs, (first, second, _) = small_costs(tmp_path)
    scale = kernel(f"{second}_scale", "Mul", us=1.0)
    cast = kernel(f"{costs.nodes[first].output[0]}_cast", "Cast", us=2.0)
    groups = groups_of(costs, scale, kernel(first, us=100.0), cast, kernel(second, us=200.0))
    found = {group.layer: group.us for group in groups if not group.overhead}
    assert found == {"conv.0": [100.0], "conv.1": [200.0]}


def test_nameless_arithmetic_goes_to_the_layers_that_no_kernel_names(tmp_path: Path) -> None:
    """OpenVINO calls a product ``Divide_7`` where its operands were float8; a Convert is no convolution."""
    costs, convolutions = small_costs(tmp_path)
    products = [kernel(f"Divide_{i}", "FullyConnected", us=10.0 + i) for i in range(2)]
    groups = groups_of(costs, *map(kernel, convolutions), kernel("Convert_7", "Convert"), *products)
    found = {group.layer: group.us for group in groups if not group.overhead}
    assert (found["gemm.0"], found["gemm.1"]) == ([10.0], [11.0])
