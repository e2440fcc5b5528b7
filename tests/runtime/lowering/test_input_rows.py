"""Pixels that are normalised in rows and convolved in blocks give the same bits as the graph as it was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.runtime.lowering.input_rows import input_in_rows
from alexnet_deploy.runtime.lowering.integer import to_integers
from tests.helpers.models.graphs import graph_model
from tests.runtime.lowering.integer_graphs import integer_layers, run

BATCH = 2
# Powers of two: sums of products are then exact in float32 in any order, so that no value lies on another step.
SCALES = {"sx": np.float32(2**-5), "sw": np.float32(2**-7), "sy": np.float32(2**-2), "z": np.int8(0)}
IMAGENET = "c = Cast<to=1>(x); t = Transpose<perm=[0,3,1,2]>(c); m = Sub(t, mean); n = Mul(m, scale)"


def start(
    normalise: str,
    side: tuple[int, int],
    channels: int,
    conv: str = "group=1",
    kernel: tuple[int, int] = (3, 3),
    groups: int = 1,
    **more: Any,
) -> onnx.ModelProto:
    """Pixels to the first layer, a Relu, and the numbers behind it as they are quantised."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-9, 10, (4 * groups, channels // groups, *kernel)).astype(np.int8),
        "b": rng.integers(-99, 100, 4 * groups).astype(np.float32) * SCALES["sx"] * SCALES["sw"],
        "mean": rng.uniform(90, 130, (1, channels, 1, 1)).astype(np.float32),
        "scale": rng.uniform(0.01, 0.03, (channels, 1, 1)).astype(np.float32),
    }
    body = (
        f"{normalise}; q = QuantizeLinear(n, sx, z); d = DequantizeLinear(q, sx, z); v = DequantizeLinear(w, sw, z); "
        f"y = Conv<{conv}>(d, v, b); r = Relu(y); s = QuantizeLinear(r, sy, z); o = DequantizeLinear(s, sy, z)"
    )
    signature = f"(uint8[N,{side[0]},{side[1]},{channels}] x) => (float[N,O,P,Q] o)"
    return graph_model(signature, body, **(weights | SCALES | more))


def pixels(model: onnx.ModelProto) -> NDArray[np.uint8]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(1).integers(0, 256, (BATCH, *shape)).astype(np.uint8)


def rewritten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    reason = input_in_rows(copy, to_integers(copy).fused)
    onnx.checker.check_model(copy, full_check=True)
    return copy, reason


def same_in_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten graph, which gives the bits of ``model``, node by node and in integer kernels."""
    new, reason = rewritten(model)
    assert reason is None
    expected = run(model, pixels(model), "ORT_DISABLE_ALL")
    np.testing.assert_array_equal(run(new, pixels(model), "ORT_DISABLE_ALL"), expected)
    np.testing.assert_array_equal(run(new, pixels(model), "ORT_ENABLE_ALL"), expected)
    assert integer_layers(new) == ["QLinearConv"]
    return new


def first_conv(model: onnx.ModelProto) -> dict[str, Any]:
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    return {each.name: onnx.helper.get_attribute_value(each) for each in conv.attribute}


@settings(max_examples=40, deadline=None)
@given(
    side=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    channels=st.sampled_from([1, 2, 3, 4, 6]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    dilated=st.booleans(),
    grouped=st.booleans(),
)
def test_any_first_convolution_is_the_same(
    side: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: list[int],
    dilated: bool,
    grouped: bool,
) -> None:
    dilations = (1, 2) if dilated else (1, 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(r <= s + pads[i] + pads[i + 2] for i, (r, s) in enumerate(zip(reach, side, strict=True))))
    groups = channels if grouped else 1
    conv = f"strides={list(strides)}, pads={pads}, dilations={list(dilations)}, group={groups}"
    same_in_integers(start(IMAGENET, side, channels, conv, kernel, groups))


def test_a_first_layer_as_alexnets_reads_blocks_of_pixels() -> None:
    new = same_in_integers(start(IMAGENET, (23, 23), 3, "strides=[4,4], pads=[2,2,2,2]", (11, 11)))
    assert first_conv(new) == {"strides": [4, 1], "pads": [2, 0, 2, 0]}
    weights = {tensor.name: list(tensor.dims) for tensor in new.graph.initializer}
    assert weights["input/weight"] == [4, 12, 11, 3]


CAST, TURN = "c = Cast<to=1>(x)", "t = Transpose<perm=[0,3,1,2]>"
PICTURE = np.arange(3 * 7 * 6, dtype=np.float32).reshape(3, 7, 6)


@pytest.mark.parametrize(
    ("normalise", "constants"),
    [
        (f"{TURN}(x); c = Cast<to=1>(t); n = Mul(c, scale)", {}),
        (f"{CAST}; a = Div(c, all); {TURN}(a); n = Sub(mean, t)", {"all": np.full((1, 1, 1, 1), 40, np.float32)}),
        (f"{CAST}; m = Sub(c, last); a = Add(m, last); {TURN}(a); n = Div(t, scale)", {"last": np.float32([4, 5, 6])}),
        (f"{CAST}; {TURN}(c); m = Sub(t, picture); n = Mul(m, scale)", {"picture": PICTURE}),
        (f"{CAST}; {TURN}(c); m = Sub(t, lines); n = Mul(m, scale)", {"lines": PICTURE[:1, :, :1]}),
        (f"{CAST}; {TURN}(c); m = Sub(t, columns); n = Mul(m, scale)", {"columns": PICTURE[0, 0]}),
    ],
)
def test_any_normalisation_is_the_same(normalise: str, constants: dict[str, NDArray[np.float32]]) -> None:
    same_in_integers(start(normalise, (7, 6), 3, "strides=[4,4]", (5, 5), **constants))


@pytest.mark.parametrize(
    ("normalise", "reason"),
    [
        (f"{CAST}; {TURN}(c); n = Mul(t, t)", "n has an operand that is no constant per pixel"),
        (f"{CAST}; t = Transpose<perm=[0,3,2,1]>(c); n = Mul(t, scale)", "t turns it in another way"),
        (f"{CAST}; a = Sqrt(c); {TURN}(a); n = Mul(t, scale)", "a comes before it is quantised"),
        (f"{CAST}; {TURN}(c); e = Sqrt(t); n = Add(e, t)", "it is not quantised alone"),
    ],
)
def test_another_start_stays_and_is_named(normalise: str, reason: str) -> None:
    model = start(normalise, (6, 6), 3)
    new, found = rewritten(model)
    assert found == reason
    expected = run(model, pixels(model), "ORT_DISABLE_ALL")
    np.testing.assert_array_equal(run(new, pixels(model), "ORT_DISABLE_ALL"), expected)


def test_a_start_before_a_float_layer_stays() -> None:
    model = start(IMAGENET, (6, 6), 3)
    model.graph.node[-3].op_type = "Abs"  # in place of Relu
    _, reason = rewritten(model)
    assert reason == "the first layer stays in float32"


def test_pixels_that_two_layers_read_are_normalised_in_rows_and_not_cut_into_blocks() -> None:
    model = start(IMAGENET, (9, 9), 3, "strides=[4,4]")
    body = "y2 = Conv<strides=[4,4]>(d, v, b); s2 = QuantizeLinear(y2, sy, z); o2 = DequantizeLinear(s2, sy, z)"
    model.graph.node.extend(onnx.parser.parse_node(text.strip()) for text in f"{body}; sum = Add(o, o2)".split(";"))
    model.graph.node[-4].name = "y2"
    model.graph.output[0].name = "sum"
    new, reason = rewritten(model)
    assert reason is None
    assert "input/weight" not in {tensor.name for tensor in new.graph.initializer}
    expected = run(model, pixels(model), "ORT_DISABLE_ALL")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        np.testing.assert_array_equal(run(new, pixels(model), level), expected)
