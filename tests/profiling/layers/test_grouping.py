"""Which layer each kernel belongs to, with the names that runtimes give."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.profiling.layers.costs import Costs
from alexnet_deploy.profiling.layers.grouping import group_kernels
from alexnet_deploy.profiling.layers.kernel_times import Kernel, KernelTimes
from tests.helpers.onnx_models import named_engine


def kernel(name: str, op: str = "Conv", precision: str = "fp32", us: float = 1.0) -> Kernel:
    return Kernel(name, op, op, (name,), precision, precision, precision, precision, (us,))


def test_conversions_of_weights_belong_to_the_layer_that_multiplies_by_them(tmp_path: Path) -> None:
    """A runtime may run them all first; then the next row in time is another layer's."""
    costs = Costs(named_engine(tmp_path, "int8").onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    dequantize = next(  # of the last convolution's weight
        name for name in costs.nodes if convolutions[-1] in costs.readers(name) and costs.before(name) is None
    )
    times = KernelTimes("fake", (kernel(dequantize, "DequantizeLinear"), *map(kernel, convolutions)), (9.0,))
    groups = group_kernels(times, costs)
    assert groups[0].overhead
    assert groups[0].next_layer == "conv.2"


def test_what_no_kernel_names_is_fused_into_what_feeds_it(tmp_path: Path) -> None:
    costs = Costs(named_engine(tmp_path).onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    relu = costs.readers(convolutions[0])[0]
    # ONNX Runtime names a fused convolution after the tensor that its activation gives.
    named = kernel(f"{costs.nodes[relu].output[0]}_nchwc")
    groups = group_kernels(KernelTimes("fake", (named, kernel(convolutions[1])), (2.0,)), costs)
    assert [group.layer for group in groups] == ["conv.0", "conv.1"]
    assert relu == "relu.0/Relu"
    assert "relu.0" in groups[0].fused
    assert groups[0].nodes[0][0] in costs.nodes  # the casts of the pixels, which nobody names, are in it, too
    assert sum(group.flops for group in groups) == costs.flops(costs.nodes)


def test_what_prepares_a_bias_is_not_the_layer(tmp_path: Path) -> None:
    """ONNX Runtime computes a scale under the name of the convolution that it is for, and before it."""
    costs = Costs(named_engine(tmp_path).onnx_path, 1)
    first, second, _ = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    scale = kernel(f"{second}_scale", "Mul", us=1.0)
    cast = kernel(f"{costs.nodes[first].output[0]}_cast", "Cast", us=2.0)
    times = KernelTimes("fake", (scale, kernel(first, us=100.0), cast, kernel(second, us=200.0)), (303.0,))
    groups = {group.layer: group for group in group_kernels(times, costs) if not group.overhead}
    assert {layer: group.us for layer, group in groups.items()} == {"conv.0": [100.0], "conv.1": [200.0]}


def test_nameless_arithmetic_goes_to_the_layers_that_no_kernel_names(tmp_path: Path) -> None:
    """OpenVINO calls a product ``Divide_7`` where its operands were float8; a Convert is no convolution."""
    costs = Costs(named_engine(tmp_path).onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    products = [kernel(f"Divide_{i}", "FullyConnected", us=10.0 + i) for i in range(2)]
    convert = kernel("Convert_7", "Convert")
    times = KernelTimes("fake", (*map(kernel, convolutions), convert, *products), (99.0,))
    found = {group.layer: group.us for group in group_kernels(times, costs) if not group.overhead}
    assert (found["gemm.0"], found["gemm.1"]) == ([10.0], [11.0])
