"""Int8 files of other tools: ONNX Runtime's own quantiser writes zero points, int32 biases and a Relu before Q."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from alexnet_deploy.runtime.lowering.integer import to_integers
from tests.helpers.models.graphs import graph_model
from tests.runtime.lowering.integer_graphs import integer_layers, run

SIDE = 12
BODY = (
    "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1, b1); r = Relu(a); m = MaxPool<kernel_shape=[2,2]>(r); "
    "c = Conv<group=2>(m, w2, b2); s = Clip(c, low, high); f = Flatten(s); g = Gemm<transB=1>(f, w3, b3); h = Relu(g); "
    "y = Gemm<transB=1>(h, w4, b4)"
)
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 4, 3, 3), "b2": (8,), "w3": (16, 8 * 3 * 3), "b3": (16,),
    "w4": (5, 16), "b4": (5,),
}  # fmt: skip


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images: Iterator[NDArray[np.float32]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {"x": image[None]}


def of_onnxruntime(folder: Path, images: NDArray[np.float32], **options: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    weights |= {"low": np.zeros((), np.float32), "high": np.full((), 6, np.float32)}
    onnx.save(graph_model(f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,5] y)", BODY, **weights), folder / "float.onnx")
    quantize_static(
        str(folder / "float.onnx"),
        str(folder / "int8.onnx"),
        Images(images),
        quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8,
        **options,
    )
    return onnx.load(folder / "int8.onnx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxruntime")
@pytest.mark.parametrize(
    "options",
    [
        {"activation_type": QuantType.QUInt8},
        {"activation_type": QuantType.QUInt8, "per_channel": True},
        {"activation_type": QuantType.QInt8, "per_channel": True},
        {"activation_type": QuantType.QInt8, "per_channel": True, "extra_options": {"ActivationSymmetric": True}},
    ],
    ids=["uint8", "uint8 per channel", "int8", "int8 symmetric"],
)
def test_a_file_of_its_own_quantiser_stays_in_integers_and_exact(options: dict[str, Any], tmp_path: Path) -> None:
    images = np.random.default_rng(4).normal(0, 1, (6, 3, SIDE, SIDE)).astype(np.float32)
    model = of_onnxruntime(tmp_path, images, **options)
    expected = run(model, images, "ORT_DISABLE_ALL")
    found = to_integers(model)
    onnx.checker.check_model(model, full_check=True)
    assert (len(found.fused), found.left) == (4, {})
    assert integer_layers(model) == ["QLinearConv"] * 2 + ["QGemm"] * 2
    assert not any(node.op_type == "Relu" for node in model.graph.node)  # a Relu in float32 costs two conversions
    np.testing.assert_array_equal(run(model, images, "ORT_DISABLE_ALL"), expected)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_bias_in_whole_numbers_keeps_its_value_whatever_its_scale(factor: float) -> None:
    """ONNX Runtime's kernel takes such a bias for steps of the sums, and does not read its scale."""
    rng = np.random.default_rng(5)
    scales = {"sx": np.float32(0.02), "sw": np.float32(0.01), "sb": np.float32(0.02 * 0.01 * factor)}
    weights = {
        "w": rng.integers(-127, 128, (4, 4)).astype(np.int8),
        "b": rng.integers(-9000, 9000, 4).astype(np.int32),
        "z": np.int8(0),
        "zb": np.int32(0),
    }
    quantised = "q = QuantizeLinear(x, sx, z); f = DequantizeLinear(q, sx, z); g = DequantizeLinear(w, sw, z)"
    body = f"{quantised}; c = DequantizeLinear(b, sb, zb); y = Gemm(f, g, c)"
    model = graph_model("(float[N,4] x) => (float[N,4] y)", body, **weights, **scales)
    images = rng.normal(0, 1, (4, 4)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model).fused == ["y"]
    assert integer_layers(model) == ["QGemm"]
    # A bias three times as large as taken for steps is off by 1; half a step is 1e-4.
    np.testing.assert_allclose(run(model, images, "ORT_ENABLE_ALL"), expected, rtol=0, atol=1.1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["Relu(d)", "Clip(d, low, high)", "Clip(d, , high)", "Clip(d, low)"]),
    st.sampled_from([np.int8(0), np.int8(-128), np.int8(17), np.uint8(0), np.uint8(128)]),
    st.floats(1e-3, 3),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
)
def test_bounds_between_the_same_steps_are_whole_numbers(
    bound: str, zero: np.integer[Any], scale: float, ends: tuple[float, float]
) -> None:
    body = (
        f"q = QuantizeLinear(x, s, z); d = DequantizeLinear(q, s, z); r = {bound}; p = QuantizeLinear(r, s, z); "
        "y = DequantizeLinear(p, s, z)"
    )
    low, high = (np.float32(end) for end in sorted(ends))
    weights = {"s": np.float32(scale), "z": zero, "low": low, "high": high}
    model = graph_model("(float[N,64] x) => (float[N,64] y)", body, **weights)
    images = np.random.default_rng(0).normal(0, 60 * scale, (4, 64)).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    to_integers(model)
    assert [node.op_type for node in model.graph.node][1:3] == ["Clip", "Identity"]
    np.testing.assert_array_equal(run(model, images, "ORT_DISABLE_ALL"), expected)


def test_sixteen_bits_are_not_called_integers() -> None:
    rng = np.random.default_rng(6)
    weights = {"w": rng.integers(-127, 128, (4, 4)).astype(np.int8), "sx": np.float32(0.02), "sw": np.float32(0.01)}
    zeros = {"z": np.int16(0), "zw": np.int8(0)}
    body = "q = QuantizeLinear(x, sx, z); f = DequantizeLinear(q, sx, z); g = DequantizeLinear(w, sw, zw)"
    model = graph_model("(float[N,4] x) => (float[N,4] y)", f"{body}; y = MatMul(f, g)", **weights, **zeros)
    assert to_integers(model).left == {"y": "its input is not quantised to 8 bits with one scale"}
