"""Weights, biases and ranges at the ends of what the types hold."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.precision.qdq import LARGEST, insert_qdq, quantizable
from alexnet_deploy.precision.types import QuantizedType
from tests.helpers.models.graphs import run_graph
from tests.precision.qdq_graphs import array, conv_model, inputs_of, model_of, quantised, random


class TestExtremes:
    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    @pytest.mark.parametrize("dead", [[2], [0, 1, 2, 3]], ids=["one channel", "all channels"])
    def test_dead_channels_stay_zero(self, dead: list[int], dtype: QuantizedType) -> None:
        weight = random(4, 16, 1, 1)
        weight[dead] = 0
        model = quantised(conv_model(16, weight), dtype)
        assert array(model, "w/scale").min() > 0
        (y,) = run_graph(model, basic=True, x=random(3, 16, 2, 2))
        assert np.all(y[:, dead] == 0)
        assert np.all(np.isfinite(y))

    def test_a_dead_channel_keeps_its_bias(self) -> None:
        """A pruned filter still adds its bias; with a tiny scale ONNX Runtime's int32 bias overflowed to -0.85."""
        weight = random(4, 16, 1, 1)
        weight[2] = 0
        # Between two convolutions ONNX Runtime changes the bias.
        weights = {"w": weight, "b": [0.0, 1.0, 2.0, 3.0], "v": np.eye(4)[:, :, None, None]}
        model = model_of("h = Conv (x, w, b); y = Conv (h, v)", "N,16,2,2", **weights)
        insert_qdq(model, quantizable(model, "int8"), {"x": 1.0, "h": 4.0}, "int8")
        (y,) = run_graph(model, basic=True, x=0.1 * random(3, 16, 2, 2))
        np.testing.assert_allclose(y[:, 2], 2.0, atol=4 / 127)  # one step of h

    @pytest.mark.parametrize(("size_x", "size_w"), [(1, 1e-8), (1, 1e-38), (1e-8, 1), (1e-12, 1e-12)])
    @pytest.mark.parametrize("layer", ["Gemm", "Gemm with beta", "MatMul", "Conv"])
    def test_a_layer_of_tiny_products_keeps_its_bias(self, layer: str, size_x: float, size_w: float) -> None:
        """In steps of products of the scales a bias would not fit into the int32 that ONNX Runtime makes of it."""
        first = {
            "Gemm": "a = Gemm <transB = 1> (x, w, b)",
            "Gemm with beta": "a = Gemm <transB = 1, beta = 3.0> (x, w, b)",
            "MatMul": "m = MatMul (x, w); a = Add (m, b)",
            "Conv": "a = Conv (x, w, b)",
        }[layer]
        weight, bias = random(16, 16) * np.float32(size_w), random(16)
        next_layer, shape = "y = Gemm (h, v)", "N,16"
        v = np.eye(16)
        if layer == "Conv":
            next_layer, shape, weight, v = "y = Conv (h, v)", "N,16,1,1", weight[..., None, None], v[..., None, None]
        model = model_of(f"{first}; h = Relu (a); {next_layer}", shape, w=weight, b=bias, v=v)
        x = random(*(3, 16, 1, 1)[: shape.count(",") + 1]) * np.float32(size_x)
        (expected,) = run_graph(model, basic=True, x=x)
        nodes = quantizable(model, "int8")
        insert_qdq(model, nodes, {"x": 4 * size_x, "h": float(expected.max())}, "int8")
        (y,) = run_graph(model, basic=True, x=x)
        assert np.abs(y - expected).max() <= expected.max() * 0.5 / 127 * 1.01  # half a step of int8

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    def test_a_masked_output_leaves_the_others_as_they_are(self, dtype: QuantizedType) -> None:
        """A class is masked by a large negative bias; other outputs, and other readers of the weight, keep theirs."""
        plain, masked, weight = random(6), random(6), random(8, 6)
        masked[5] = -1e9
        body = "h = Gemm (x, w, b); r = Gemm (x, w, c); y = Sum (h, r)"
        model = model_of(body, "N,8", w=weight, b=masked, c=plain)
        expected = quantised(model_of(body, "N,8", w=weight, b=plain, c=plain), dtype)
        model = quantised(model, dtype)
        assert np.array_equal(array(model, "w/q")[:, :5], array(expected, "w/q")[:, :5])
        dequantised = inputs_of(model, "r")[1]
        of_the_other = inputs_of(model, dequantised)[0]
        assert np.array_equal(array(model, of_the_other), array(expected, "w/q"))

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    @pytest.mark.parametrize("largest", [1.0, 3e-3, 1e-4, 3e-5, 1e-6])
    def test_weights_are_rounded_to_the_float16_scale_that_the_file_holds(
        self, largest: float, dtype: QuantizedType
    ) -> None:
        weight = random(8, 32, 1, 1)
        weight *= largest / np.abs(weight).max()
        model = conv_model(32, weight)
        insert_qdq(model, quantizable(model, dtype), {"x": largest}, dtype, float16=True)
        half = cast_to_float16(model)
        for each in ("x", "w"):
            assert np.all(array(half, f"{each}/scale/fp16") == array(model, f"{each}/scale"))
        values, scale = (array(half, name).astype(np.float32) for name in ("w/q", "w/scale/fp16"))
        scale = scale.reshape(-1, 1, 1, 1)
        # fp8 has 3 bits of mantissa, and no step below 2**-9.
        step = scale if dtype == "int8" else scale * np.maximum(np.abs(values) / 8, 2**-9)
        assert np.all(np.abs(values * scale - weight) <= 0.501 * step)

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    def test_a_scale_that_is_a_float16_stays(self, dtype: QuantizedType) -> None:
        model = conv_model(16, random(4, 16, 1, 1))
        insert_qdq(model, quantizable(model, dtype), {"x": 0.5 * LARGEST[dtype]}, dtype, float16=True)
        assert array(model, "x/scale") == 0.5

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    def test_the_largest_float16_stays_finite(self, dtype: QuantizedType) -> None:
        """int8 has a -128, which reaches one step further than the range that the scale was chosen for."""
        model = conv_model(16, random(4, 16, 1, 1))
        insert_qdq(model, quantizable(model, dtype), {"x": 65504.0}, dtype, float16=True)
        half, lowest = cast_to_float16(model), np.float32(128 if dtype == "int8" else 448)
        assert 65000 < array(half, "x/scale/fp16").astype(np.float32) * lowest <= 65504

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    def test_products_of_scales_are_normal_numbers(self, dtype: QuantizedType) -> None:
        model = quantised(conv_model(16, random(4, 16, 1, 1) * np.float32(1e-37)), dtype, largest=1e-37)
        assert np.all(array(model, "x/scale") * array(model, "w/scale") >= np.finfo(np.float32).tiny)

    def test_every_scale_has_a_float16(self) -> None:
        """int8+fp16 turns them into float16, where a smaller one would become 0."""
        model = conv_model(3, random(4, 3, 1, 1) * 1e-7)
        insert_qdq(model, quantizable(model, "int8"), {"x": 1e-9}, "int8", float16=True)
        for name in ("x/scale", "w/scale"):
            assert np.all(array(model, name).astype(np.float16) > 0)
