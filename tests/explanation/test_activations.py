"""Sheets of activations: which layers, the same in ONNX Runtime and torch, how bright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.explanation.activations import LayerMaps, draw_maps, maps_of_onnx, write_maps
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.model.inside import feature_maps, first_convolution
from tests.helpers.models.onnx_models import Graph, named_engine

GAP = 2


def test_a_checkpoint_and_its_export_have_the_same_maps(tiny_checkpoint: Checkpoint, tiny_onnx: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    of_torch = feature_maps(tiny_checkpoint, pixels)
    of_onnx = maps_of_onnx(onnx.load(tiny_onnx), pixels, "tiny")
    assert [name for name, _, _ in of_torch] == [layer.name for layer in of_onnx]
    assert [layer.name for layer in of_onnx] == [f"features.{i}" for i in (1, 2, 4, 5, 7, 9, 11, 12)]
    for (_, _, expected), layer in zip(of_torch, of_onnx, strict=True):
        # float32 sums of up to some thousand products in another order
        np.testing.assert_allclose(layer.maps_CHW, expected, atol=1e-4 * max(1.0, float(expected.max())))


def test_the_first_convolution_of_a_checkpoint(tiny_checkpoint: Checkpoint) -> None:
    name, weight = first_convolution(tiny_checkpoint)
    assert name == "features.0"
    np.testing.assert_array_equal(weight, tiny_checkpoint.weights["features.0.weight"].numpy())


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_convolution_is_shown_behind_its_activation_in_every_precision(tmp_path: Path, precision: str) -> None:
    engine = named_engine(tmp_path, precision, batch=2)  # a fixed batch is filled up
    pixels = np.full((32, 32, 3), 200, np.uint8)
    found = maps_of_onnx(onnx.load(engine.onnx_path), pixels, "m")
    assert [layer.kind for layer in found] == ["Relu", "MaxPool"] * 3
    assert found[0].maps_CHW.shape == (16, 32, 32)
    assert all((layer.maps_CHW >= 0).all() for layer in found)


def test_brightness_is_the_root_of_the_share_and_negative_values_move_0_to_grey() -> None:
    maps = np.zeros((3, 56, 56), np.float32)
    maps[0], maps[1] = 4, 1
    picture = np.asarray(draw_maps(LayerMaps("l", "Relu", maps)))
    assert [int(picture[GAP, GAP + i * (56 + GAP)]) for i in range(3)] == [255, 128, 0]
    maps[2] = -4
    picture = np.asarray(draw_maps(LayerMaps("l", "Conv", maps)))
    assert [int(picture[GAP, GAP + i * (56 + GAP)]) for i in range(3)] == [255, 191, 0]
    assert not np.asarray(draw_maps(LayerMaps("l", "Relu", np.zeros((1, 4, 4), np.float32))))[GAP:-GAP, GAP:-GAP].any()


def test_figures_of_a_layer() -> None:
    maps = np.zeros((4, 2, 2), np.float32)
    maps[0, 0, 0] = 1
    layer = LayerMaps("l", "Relu", maps)
    assert (layer.silent, layer.zero_percent) == (3, 93.75)


def test_a_name_of_a_layer_is_no_path(tmp_path: Path) -> None:
    maps = np.ones((1, 2, 2), np.float32)
    names = write_maps([LayerMaps("/a/../b\n", "Relu", maps), LayerMaps("features.1", "Relu", maps)], tmp_path / "out")
    assert names == ["01-a-..-b--Relu.png", "02-features.1-Relu.png"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == names
    with Image.open(tmp_path / "out" / names[0]) as picture:
        assert picture.mode == "L"


def test_a_model_without_maps_is_refused(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
    g.save(g.node("Gemm", x, g.weight(2, 12), transB=1), tmp_path / "d.onnx", ["N", 2, 2, 3], TensorProto.UINT8)
    with pytest.raises(InputError, match=r"d.onnx: no layer gives maps"):
        maps_of_onnx(onnx.load(tmp_path / "d.onnx"), np.zeros((2, 2, 3), np.uint8), "d.onnx")
