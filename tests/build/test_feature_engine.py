"""``until``: an engine that ends at a layer has features, and nothing of classes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from alexnet_deploy.contract import ModelContract, Precision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.cut import layers_in
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx
from tests.helpers.models.bundles import build_bundle


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_note_is_about_probabilities(
    fitted_onnx: tuple[Path, ModelContract], tmp_path: Path, photo_folder: Path, precision: Precision
) -> None:
    source, _ = fitted_onnx
    images = {"calibration_data": photo_folder / "train", "calibration_images": 6} if precision == "int8" else {}
    made = build_bundle(source, tmp_path / "bundle", precision, until="classifier.5", **images)
    assert not [note for note in made.notes if "probabilities" in note or "unknown" in note]
    assert (made.contract.temperature, made.contract.calibration, made.contract.rejection) == (1, None, None)


@pytest.fixture(params=["ours", "with a Relu before its first layer"])
def before_weights(request: pytest.FixtureRequest, tiny_onnx: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A model, and its layers before the first one with weights."""
    model = load_onnx(tiny_onnx)
    if request.param != "ours":
        (first,) = [node for node in model.graph.node if node.name == "features.0/Conv"]
        index = list(model.graph.node).index(first)
        relu = helper.make_node("Relu", [first.input[0]], ["clipped"], "early/Relu")
        first.input[0] = "clipped"
        model.graph.node.insert(index, relu)
    names = [layer.name for layer in layers_in(onnx.shape_inference.infer_shapes(model))]
    path = save_onnx(model, tmp_path / "model.onnx")
    return path, list(dict.fromkeys(names[: names.index("features.0")]))


def test_a_layer_that_needs_no_weights_is_no_end(before_weights: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, names = before_weights
    assert names
    for name in names:
        with pytest.raises(UsageError, match=rf"^`until` {name}: .*are the pixels .*; name features.0 or a later"):
            build_bundle(path, tmp_path / "bundle", until=name)
    assert not (tmp_path / "bundle").exists()
    assert build_bundle(path, tmp_path / "first", until="features.0").contract.features is not None
