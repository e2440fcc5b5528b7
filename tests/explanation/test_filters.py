"""The first layer's filters as a picture, and the values of a weight in whatever form a graph keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from alexnet_deploy.errors import InputError
from alexnet_deploy.explanation.filters import describe_filters, draw_filters, first_filters
from alexnet_deploy.explanation.grid import COLUMNS, sheet
from alexnet_deploy.onnx_graph.weight_values import layers_with_weights
from tests.helpers.models.onnx_models import PRECISIONS, Graph, tiny_classifier

SIDE, GAP = 44, 2


def two_filters() -> np.ndarray:
    """``[2, 3, 11, 11]``: red in its first corner and its opposite in the last; nothing at all."""
    weight = np.zeros((2, 3, 11, 11), np.float32)
    weight[0, 0, 0, 0], weight[0, 0, -1, -1] = 0.5, -0.25
    return weight


def test_a_weight_becomes_the_colour_that_it_is_of() -> None:
    picture = np.asarray(draw_filters(two_filters(), "rgb", "m"))
    assert picture.shape == (SIDE + 2 * GAP, 2 * (SIDE + GAP) + GAP, 3)
    assert picture[GAP, GAP].tolist() == [255, 128, 128]  # the largest weight; 0 is mid-grey
    assert picture[GAP + 3, GAP + 3].tolist() == [255, 128, 128]  # four pixels for a weight
    assert picture[GAP + SIDE - 1, GAP + SIDE - 1].tolist() == [64, 128, 128]  # half as large, below 0
    assert np.unique(picture[GAP:-GAP, GAP + SIDE + GAP : -GAP]).tolist() == [128]  # a filter of zeros
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_the_colours_are_those_of_the_photo_for_a_bgr_model() -> None:
    bgr = draw_filters(two_filters()[:, ::-1], "bgr", "m")
    np.testing.assert_array_equal(np.asarray(bgr), np.asarray(draw_filters(two_filters(), "rgb", "m")))


def test_grey_models_have_grey_filters_and_alpha_is_left_out() -> None:
    grey = np.asarray(draw_filters(two_filters()[:, :1], "grey", "m"))
    assert grey[GAP, GAP].tolist() == [255, 255, 255]
    alpha = np.concatenate([two_filters(), np.full((2, 1, 11, 11), 9, np.float32)], axis=1)
    np.testing.assert_array_equal(
        np.asarray(draw_filters(alpha, "rgba", "m")), np.asarray(draw_filters(two_filters(), "rgb", "m"))
    )


def test_channels_that_are_no_colours_are_refused() -> None:
    with pytest.raises(InputError, match="m: its first filters have 16 channels"):
        draw_filters(np.zeros((4, 16, 3, 3), np.float32), "rgb", "m")


def test_rows_have_sixteen_tiles_and_large_tiles_are_scaled_down() -> None:
    tiles = [np.zeros((100, 50, 3), np.uint8)] * (COLUMNS + 1)
    assert sheet(tiles, 50).size == (COLUMNS * (25 + GAP) + GAP, 2 * (50 + GAP) + GAP)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_filters_of_a_quantised_graph_are_those_it_computes_with(tmp_path: Path, precision: str) -> None:
    exact = first_filters(onnx.load(tiny_classifier(tmp_path / "exact.onnx")), "m")[1]
    layer, weight = first_filters(onnx.load(tiny_classifier(tmp_path / "m.onnx", precision)), "m")
    assert layer == "conv_3" or layer.startswith("conv")
    # A step of 0.05 for int8, so half of it; float8 has three bits behind the leading one; float16 ten.
    tolerance = {"int8": 0.0251, "fp8": 0.0251}.get(precision.removesuffix("+fp16"), 1e-3)
    np.testing.assert_allclose(weight, exact, atol=tolerance)
    assert "16 filters of 3 x 3 pixels and 3 channels" in describe_filters(layer, weight)


def test_all_layers_are_found_with_their_biases(tmp_path: Path) -> None:
    found = layers_with_weights(onnx.load(tiny_classifier(tmp_path / "m.onnx", "int8")))
    assert [layer.node.op_type for layer in found] == ["Conv"] * 3 + ["Gemm"] * 2
    assert all(layer.bias is not None and layer.bias.any() for layer in found)


def test_a_product_of_activations_is_no_layer_and_constants_in_nodes_are(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
    values = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    turned = g.node("Transpose", g.node("Identity", g.node("Constant", value=values)), perm=[1, 0])
    y = g.node("MatMul", x, turned)
    y = g.node("Add", g.constant(np.array([1, 2], np.float32)), y)
    y = g.node("MatMul", y, g.node("Transpose", y))
    path = g.save(y, tmp_path / "m.onnx", ["N", 3], TensorProto.UINT8)
    (layer,) = layers_with_weights(onnx.load(path))
    assert layer.weight.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert layer.bias is not None
    assert layer.bias.tolist() == [1, 2]


def test_a_weight_that_many_ways_lead_to_takes_no_longer(tmp_path: Path) -> None:
    """Each scale and each value come from the same number before: 2^60 ways."""
    g = Graph()
    w = g.constant(np.array(1.0, np.float32))
    for _ in range(60):
        w = g.node("DequantizeLinear", g.node("QuantizeLinear", w, w), w)
    w = g.node("Reshape", w, g.constant(np.array([1, 1])))
    y = g.node("MatMul", g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT)), w)
    (layer,) = layers_with_weights(onnx.load(g.save(y, tmp_path / "m.onnx", ["N", 1], TensorProto.UINT8)))
    assert layer.weight.tolist() == [[1]]


def test_a_model_without_a_convolution_first_is_refused_with_what_it_has(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
    dense = g.save(g.node("Gemm", x, g.weight(2, 12), transB=1), tmp_path / "d.onnx", ["N", 2, 2, 3], TensorProto.UINT8)
    with pytest.raises(InputError, match=r"d.onnx: its first layer gemm_2 is a Gemm, not a convolution"):
        first_filters(onnx.load(dense), "d.onnx")
    g = Graph()
    g.save(g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT)), tmp_path / "n.onnx", ["N", 3], 2)
    with pytest.raises(InputError, match=r"n.onnx: has no layer with weights"):
        first_filters(onnx.load(tmp_path / "n.onnx"), "n.onnx")
