"""A layer is computed in integers only where int32 holds its sums, whatever comes in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.runtime.lowering.integer import to_integers
from alexnet_deploy.runtime.lowering.sums import fits_int32
from tests.helpers.models.graphs import graph_model
from tests.runtime.lowering.integer_graphs import integer_layers, run

INPUTS, OUTPUTS = 12, 4
SCALE_X, SCALE_W = np.float32(0.02), np.float32(1e-6)
LIMIT = 2**31 - 1
READ = "q = QuantizeLinear(f, sx, z); d = DequantizeLinear(q, sx, z); e = DequantizeLinear(w, sw, zw)"
AGAIN = "r = QuantizeLinear(c, so, z); o = DequantizeLinear(r, so, z); y = Flatten(o)"
LAYERS = {
    "Gemm": (f"f = Flatten(x); {READ}; y = Gemm(d, e, b)", (INPUTS, OUTPUTS)),
    "MatMul": (f"f = Flatten(x); {READ}; y = MatMul(d, e)", (INPUTS, OUTPUTS)),
    "Conv": (f"f = Identity(x); {READ}; c = Conv(d, e, b); {AGAIN}", (OUTPUTS, 3, 2, 2)),
    "groups": (f"f = Identity(x); {READ}; c = Conv<group=3>(d, e, b); {AGAIN}", (3, 1, 2, 2)),
}


def layer(kind: str, weight: NDArray[np.int8], steps: NDArray[np.float64], zero: np.integer) -> onnx.ModelProto:
    """One layer of ``kind`` on quantised pixels ``[N, 3, 2, 2]``, its bias in steps of its sums."""
    weights = {
        "w": weight,
        "b": (steps * np.float64(SCALE_X * SCALE_W)).astype(np.float32),
        "sx": SCALE_X,
        "sw": SCALE_W,
        "so": np.float32(LIMIT * float(SCALE_X * SCALE_W) / 100),
        "z": zero,
        "zw": np.int8(0),
    }
    return graph_model("(float[N,3,2,2] x) => (float[N,M] y)", LAYERS[kind][0], **weights)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LAYERS)),
    st.floats(-1, 4),
    st.sampled_from([np.uint8(0), np.uint8(77), np.uint8(128), np.int8(0), np.int8(-128)]),
    st.integers(0, 2**32 - 1),
)
def test_sums_never_leave_int32(kind: str, room: float, zero: np.integer, seed: int) -> None:
    """The bias leaves as much room as that many times the largest sum of products: less than 1 is too little."""
    rng = np.random.default_rng(seed)
    shape = LAYERS[kind][1]
    weight = (rng.integers(100, 128, shape) * rng.choice([-1, 1])).astype(np.int8)
    bias = rng.choice([-1, 1]) * np.full(shape[0 if len(shape) == 4 else 1], LIMIT - room * 127 * 255 * INPUTS)
    model = layer(kind, weight, bias, zero)
    images = np.concatenate([np.full((1, 3, 2, 2), 9.0), np.full((1, 3, 2, 2), -9.0)]).astype(np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    to_integers(model)
    # The bias and the sum in float32 are off by 2^-24 each; a Conv is quantised again, in steps of a hundredth.
    tolerance = LIMIT * float(SCALE_X * SCALE_W) * (1.01e-2 if len(shape) == 4 else 1e-6)
    np.testing.assert_allclose(run(model, images, "ORT_ENABLE_ALL"), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("kind", "products"), [("Gemm", 12), ("Conv", 12), ("groups", 4)])
def test_a_bias_that_leaves_no_room_for_the_products_stays(kind: str, products: int) -> None:
    shape = LAYERS[kind][1]
    largest = products * 127 * 255
    for room, left in ((2 * largest, {}), (largest // 2, {"its sums can exceed 32 bits"})):
        steps = np.full(shape[0 if len(shape) == 4 else 1], float(LIMIT - room), np.float64)
        model = layer(kind, np.full(shape, 127, np.int8), steps, np.uint8(0))
        assert set(to_integers(model).left.values()) == set(left)
        assert bool(integer_layers(model)) != bool(left)


def test_many_products_exceed_int32_without_a_bias() -> None:
    inputs = 70_000
    weight = {"w": np.full((inputs, 1), 127, np.int8), "sx": np.float32(0.02), "sw": np.float32(1e-3)}
    zeros = {"z": np.uint8(0), "zw": np.int8(0)}
    body = "q = QuantizeLinear(x, sx, z); d = DequantizeLinear(q, sx, z); e = DequantizeLinear(w, sw, zw)"
    model = graph_model(f"(float[N,{inputs}] x) => (float[N,1] y)", f"{body}; y = MatMul(d, e)", **weight, **zeros)
    images = np.full((1, inputs), 9.0, np.float32)
    expected = run(model, images, "ORT_DISABLE_ALL")
    assert to_integers(model).left == {"y": "its sums can exceed 32 bits"}
    # Sums of 70000 numbers in float32, in another order.
    np.testing.assert_allclose(run(model, images, "ORT_ENABLE_ALL"), expected, rtol=1e-3)


@given(
    st.integers(0, 255),
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.integers(0, 1 << 17),
    st.sampled_from([-1, 1]),
)
@example(zero_x=0, zero_w=-128, weight=127, room=127 * 255, sign=1)  # enough without the zero point of the weight
def test_what_fits_holds_the_extremes(zero_x: int, zero_w: int, weight: int, room: int, sign: int) -> None:
    """One product, at both ends of uint8, and a bias that leaves about as much room as it takes."""
    bias = sign * (LIMIT - room)
    found = fits_int32(np.full((1, 1), weight, np.int8), zero_w, 1, zero_x, np.array([bias], np.float64))
    extremes = [(x - zero_x) * (weight - zero_w) + bias for x in (0, 255)]
    assert not found or max(map(abs, extremes)) <= LIMIT
