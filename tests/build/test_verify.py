"""A bundle records how its answers for photos compare with those of its float model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import load_manifest, save_manifest
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError, ProofError
from tests.helpers.command import Command
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier
from tests.helpers.models.onnx_models import CLASSES, SIDE, Graph, pooled_model, tiny_model, with_contract


@pytest.mark.parametrize(("precision", "points"), [("fp32", 0.01), ("fp16", 1.0)])
def test_a_sound_engine_answers_as_its_float_model(precision: Precision, points: float, tmp_path: Path) -> None:
    bundle = build_engine(tiny_model(tmp_path / "tiny.onnx"), tmp_path / "tiny", precision=precision)
    seen = load_manifest(bundle)[0].verification
    assert seen is not None
    assert (seen.images, seen.same_answers) == (12, 12)
    assert "OpenVINO" in seen.runtime
    # fp32: sums in another order; fp16: weights rounded to 11 bits
    assert seen.largest_difference_points <= points


def some_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (40, 40), (50 * i, 20, 20)).save(folder / f"{i}.png")
    return folder


def test_photos_of_the_user(tmp_path: Path) -> None:
    photos = some_photos(tmp_path / "photos", 3)
    onnx = tiny_model(tmp_path / "tiny.onnx")
    bundle = build_engine(onnx, tmp_path / "tiny", settings=BuildSettings(verify_images=photos))
    seen = load_manifest(bundle)[0].verification
    assert seen is not None
    assert seen.images == 3
    with pytest.raises(InputError, match="nowhere"):
        build_engine(onnx, tmp_path / "other", settings=BuildSettings(verify_images=tmp_path / "nowhere"))
    assert not (tmp_path / "other").exists()


def test_calibration_images_show_what_the_model_is_for(tmp_path: Path) -> None:
    """Sample photos may show nothing that it knows: all the same answer, whatever int8 has done to it."""
    photos = some_photos(tmp_path / "photos", 5)
    onnx = tiny_model(tmp_path / "tiny.onnx")
    settings = BuildSettings(calibration_images=5)
    built = build_engine(onnx, tmp_path / "tiny", precision="int8", calibration_data=photos, settings=settings)
    seen = load_manifest(built)[0].verification
    assert seen is not None
    assert seen.images == 5


def test_a_runtime_that_leaves_the_graph_is_in_the_notes(tmp_path: Path) -> None:
    path = pooled_model(tmp_path / "pooled.onnx")
    manifest = load_manifest(build_engine(path, tmp_path / "pooled"))[0]
    assert manifest.verification is not None
    assert "ONNX Runtime" in manifest.verification.runtime
    assert any(note.startswith("openvino is not used: its logits for 12 photos differ") for note in manifest.notes)


def test_inspect_says_it_and_names_the_next_step_where_many_answers_change(tmp_path: Path, command: Command) -> None:
    bundle = build_engine(tiny_model(tmp_path / "tiny.onnx"), tmp_path / "tiny")
    text = command("inspect", bundle).out
    assert "verified on 12 photos with OpenVINO" in text
    assert "diagnose" not in text
    manifest = load_manifest(bundle)[0]
    assert manifest.verification is not None
    worse = dataclasses.replace(manifest.verification, same_answers=8)
    save_manifest(dataclasses.replace(manifest, verification=worse), bundle)
    assert "8 answers as the float model's" in (text := command("inspect", bundle).out)
    assert "to see which layers change them: alexnet-deploy diagnose" in text


def test_an_engine_whose_answers_overflow_does_not_replace_a_good_one(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.node("Conv", g.node("Transpose", x, perm=[0, 3, 1, 2]), g.weight(4, 3, 3, 3))
    # Beyond float16's 65504, and dividing comes too late
    factor = g.constant(np.array(3e4, np.float32))
    x = g.node("Div", g.node("Mul", g.node("Mul", x, factor), factor), g.constant(np.array(3e4, np.float32)))
    x = g.node("GlobalAveragePool", g.node("Relu", x))
    x = g.node("Gemm", g.node("Flatten", x), g.weight(CLASSES, 4), transB=1)
    path = g.save(x, tmp_path / "big.onnx", ["N", SIDE, SIDE, 3], TensorProto.UINT8)
    with_contract(path)
    bundle = build_engine(path, tmp_path / "big")
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(ProofError, match=r"numbers of mul_3 \(Mul\) reach .*, and float16 ends at 65504"):
        build_engine(path, bundle, precision="fp16")
    assert (bundle / "bundle.json").read_bytes() == before


def test_a_model_without_finite_answers_is_refused(tmp_path: Path) -> None:
    source = foreign_classifier(tmp_path / "net.onnx")
    model = onnx.load(source)
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "scores/before"
    model.graph.node.append(helper.make_node("Log", ["scores/negative"], [output]))
    model.graph.node.insert(-1, helper.make_node("Abs", ["scores/before"], ["scores/positive"]))
    model.graph.node.insert(-1, helper.make_node("Neg", ["scores/positive"], ["scores/negative"]))
    onnx.save(model, source)
    settings = BuildSettings(import_options=dataclasses.replace(FOREIGN, activation="softmax"))
    with pytest.raises(ProofError, match="its scores are not finite for any of 12 photos"):
        build_engine(source, tmp_path / "nan", settings=settings)
