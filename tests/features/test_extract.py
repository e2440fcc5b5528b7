"""From images to vectors: models of other tools, and what has no vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import alexnet_deploy as ad
from alexnet_deploy.errors import UsageError
from alexnet_deploy.features.index import open_index
from alexnet_deploy.images.samples import sample_photos
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier
from tests.helpers.models.onnx_models import CLASSES, SIDE, Graph, with_contract


@pytest.mark.parametrize(
    ("form", "shape", "maps"),
    [
        ({}, (8,), (8, 6, 6)),
        ({"head": "convolution"}, (8, 6, 6), (8, 6, 6)),  # its last layer scores each place
        ({"batch": 4}, (8,), (8, 6, 6)),
    ],
)
def test_models_of_other_tools(
    form: dict[str, Any], shape: tuple[int, ...], maps: tuple[int, ...], tmp_path: Path
) -> None:
    onnx = foreign_classifier(tmp_path / "foreign.onnx", **form)
    photos = sample_photos()[:5]
    with ad.open_engine(onnx, features=True, import_options=FOREIGN, runtime="onnxruntime") as engine:
        assert engine.contract.features is not None
        assert engine.contract.features.shape == shape
        assert ad.features_of(engine, photos).shape == (5, np.prod(shape))
    with ad.open_engine(onnx, features=True, layer="*", import_options=FOREIGN, runtime="onnxruntime") as engine:
        assert engine.contract.features is not None
        assert engine.contract.features.shape == maps


def test_features_that_are_not_finite_have_no_row(tmp_path: Path) -> None:
    """The logarithm of a black picture."""
    g = Graph()
    x = g.node("Flatten", g.node("Log", g.node("Cast", "pixels", to=TensorProto.FLOAT)))
    logits = g.node("Gemm", x, g.weight(CLASSES, 3 * SIDE * SIDE), transB=1)
    onnx = with_contract(g.save(logits, tmp_path / "log.onnx", ["N", SIDE, SIDE, 3], TensorProto.UINT8))
    for name, value in (("0white", 255), ("1black", 0), ("2grey", 128)):
        Image.new("RGB", (40, 40), (value, value, value)).save(tmp_path / f"{name}.png")
    failed: list[str] = []
    with ad.open_engine(onnx, features=True, verify=False, runtime="onnxruntime") as engine:
        found = ad.extract_features(engine, tmp_path, tmp_path / "v.npz", on_failure=failed.append)
    assert (found.rows, found.failed) == (2, 1)
    assert "1black.png: the output of layer flatten_2 is not finite" in failed[0]
    with open_index(tmp_path / "v.npz") as index:
        assert [Path(name).stem for name in index.names([0, 1])] == ["0white", "2grey"]
        (vectors,) = index.blocks()
    np.testing.assert_allclose(vectors[:, 0], np.log([255, 128]), rtol=1e-6)  # float32


def test_copies_are_not_looked_for_at_a_layer_without_places(tiny_onnx: Path) -> None:
    photos = sample_photos()[:3]
    with (
        ad.open_engine(tiny_onnx, features=True, runtime="onnxruntime") as engine,
        pytest.raises(UsageError, match=r"has no places of a picture.*open it with `layer` '\*'"),
    ):
        ad.find_duplicates(engine, photos)
    with ad.open_engine(tiny_onnx, features=True, layer="*", runtime="onnxruntime") as engine:
        assert ad.find_duplicates(engine, photos).images == 3
