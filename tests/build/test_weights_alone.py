"""int4 and int8-weights from end to end: the bundle, its record, and the commands that read it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bundle.verified import open_bundle, verify
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.runtime.reference import judge
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.sensitivity.layers import diagnose
from alexnet_deploy.sensitivity.search import build_within_drop
from alexnet_deploy.sensitivity.settings import DiagnoseSettings
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.graphs import graph_model
from tests.helpers.models.onnx_models import with_contract

pytestmark = pytest.mark.usefixtures("machine")
PRECISIONS: tuple[Precision, ...] = ("int4", "int8-weights")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_needs_no_images_and_takes_them(
    precision: Precision, tiny_onnx: Path, tmp_path: Path, photo_folder: Path
) -> None:
    calibration = choose_images(photo_folder / "train", count=18)
    plain, calibrated = tmp_path / "plain", tmp_path / "calibrated"
    made = build_bundle(tiny_onnx, plain, precision)
    assert verify(plain)[0].precision == precision
    assert not (plain / "calibration.json").exists()
    assert any(note.startswith("weights are rounded to nearest; with `calibration_data`") for note in made.notes)
    (achieved,) = made.achieved.values()
    kinds = {layer.op: layer.got for layer in achieved}
    dense = "MatMul" if precision == "int4" else "Gemm"
    assert kinds == {"Conv": "fp16" if precision == "int4" else precision, dense: precision}
    made = build_bundle(tiny_onnx, calibrated, precision, calibration)
    assert not any("rounded to nearest" in note for note in made.notes)
    record = read_record(calibrated / "calibration.json")
    assert (record.precision, record.method, record.threshold_by_tensor) == (precision, "gptq", {})
    assert record.image_hashes == frozenset(calibration.sha256)
    exact_NK, pixels_NHWC = None, np.concatenate(list(calibration.batches(made.contract.preprocessing, 6)))
    build_bundle(tiny_onnx, tmp_path / "fp32")
    for folder in (tmp_path / "fp32", plain, calibrated):
        for runtime in ("openvino", "onnxruntime"):
            with closing(open_runner(open_bundle(folder), runtime).runner) as runner:
                logits_NK = runner(pixels_NHWC)
                assert judge(runner, open_bundle(folder)).reason is None
            exact_NK = logits_NK if exact_NK is None else exact_NK
            # 4 bits in three layers, or 8 in eight.
            tolerance = 0.3 if precision == "int4" else 0.05
            assert np.abs(logits_NK - exact_NK).max() < tolerance * np.abs(exact_NK).max()


def test_a_record_repeats_a_build_to_the_byte(tiny_onnx: Path, tmp_path: Path, photo_folder: Path) -> None:
    calibration = choose_images(photo_folder / "train", count=18)
    build_bundle(tiny_onnx, tmp_path / "a", "int4", calibration)
    again = read_record(tmp_path / "a/calibration.json").calibration_set(photo_folder / "train")
    build_bundle(tiny_onnx, tmp_path / "b", "int4", again)
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


def test_a_model_without_dense_layers(tmp_path: Path) -> None:
    """Nothing is built, and the command says why in one line."""
    body = "c = Cast <to=1> (pixels); t = Transpose <perm=[0,3,1,2]> (c); y = Conv (t, w); p = GlobalAveragePool (y); "
    weights = np.random.default_rng(0).normal(size=(10, 3, 3, 3)).astype(np.float32)
    signature = "(uint8[N,32,32,3] pixels) => (float[N,10] logits)"
    path = tmp_path / "net.onnx"
    path.write_bytes(graph_model(signature, f"{body}logits = Flatten (p)", w=weights).SerializeToString())
    with_contract(path)
    with pytest.raises(InputError, match=r"net.onnx: has no dense layer to quantise; build int8-weights"):
        build_bundle(path, tmp_path / "bundle", "int4")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    build_bundle(path, tmp_path / "bundle", "int8-weights")


def test_commands_know_it(tiny_onnx: Path, tmp_path: Path, photo_folder: Path, command: Command) -> None:
    store = tmp_path / "store"
    for flags in ([], ["--int4"], ["--int4", "--calibration-data", photo_folder / "train", "--calibration-images", 6]):
        name = "-".join(["net", *(["int4"] if flags else []), *(["gptq"] if len(flags) > 1 else [])])
        done = command("build-engine", tiny_onnx, "-o", store / name, "--target", "sm89", *flags)
        assert done.code == 0, done.err
    assert "int4" in command("inspect", store / "net-int4").out
    found = json.loads(command("evaluate", photo_folder / "val", "--store", store, "--no-latency", "--json").out)
    precisions = {engine["engine"]: engine["precision"] for engine in found["engines"]}
    assert precisions == {"net": "fp32", "net-int4": "int4", "net-int4-gptq": "int4"}
    # The one without images was not calibrated by any; the other has a record, of other images.
    assert {engine["calibration_images"] for engine in found["engines"] if engine["precision"] == "int4"} == {0}
    refused = command("evaluate", photo_folder / "train", "--store", store)
    assert refused.code == 1
    assert "calibrated net-int4-gptq" in refused.err
    assert command("compare", "--data", photo_folder / "val", store / "net", store / "net-int4").code == 0


def test_diagnosis_and_search(tiny_onnx: Path, tmp_path: Path, photo_folder: Path) -> None:
    settings = DiagnoseSettings(
        precision="int4", images=6, calibration_data=photo_folder / "train", calibration_images=18
    )
    found = diagnose(tiny_onnx, photo_folder / "val", settings)
    assert (found.precision, found.method) == ("int4", "gptq")
    assert {layer.op for layer in found.layers} == {"Gemm"}
    assert all(0 < layer.sqnr_db < 60 for layer in found.layers)
    path = build_within_drop(
        tiny_onnx, tmp_path / "bundle", max_drop=100, validation_data=photo_folder / "val", calibration_data=None,
        precision="int4",
    )  # fmt: skip
    assert any("met with all layers quantised" in note for note in verify(path)[0].notes)
