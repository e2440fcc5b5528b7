"""Opening engines beside one another: every kind, every runtime here, and whose images calibrated them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.errors import ArtifactError, InputError, UsageError
from alexnet_deploy.evaluation.engines import (
    Overlap,
    calibration_overlap,
    open_contenders,
    refuse_calibration_images,
    unique_names,
)
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from tests.helpers.colour_models import hostile_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint, photo_folder: Path) -> Path:
    """A checkpoint, an ONNX, and a store with an int8 bundle (6 photos calibrated it) and a newer float32 one."""
    root = tmp_path_factory.mktemp("contenders")
    save_checkpoint(tiny_checkpoint, root / "tiny.safetensors")
    colours, chosen = hostile_classifier(root / "colours.onnx"), choose_images(photo_folder / "train", count=6)
    build_engine(colours, root / "engines/a-int8", EngineOptions("int8", targets=("sm89",), calibration=chosen))
    build_engine(colours, root / "engines/b-fp32", EngineOptions("fp32", targets=("sm89",)))
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


STORE = Path("engines")


def test_checkpoint_onnx_and_bundle_beside_one_another(here: Path) -> None:
    names = ["tiny.safetensors", "colours.onnx", "b-fp32", "engines/a-int8"]
    with open_contenders(names, STORE, ["onnxruntime"]) as (found, _):
        assert [(c.name, c.precision) for c in found] == list(zip(names, ["fp32"] * 3 + ["int8"], strict=True))
        assert found[0].runner.description.startswith("PyTorch 2.")
        assert all(c.runner.description.startswith("ONNX Runtime") for c in found[1:])
        sizes = [Path(p).stat().st_size for p in (*names[:2], f"engines/b-fp32/{MODEL}", f"engines/a-int8/{MODEL}")]
        assert [c.model_bytes for c in found] == sizes
        assert [c.calibrated_on is None for c in found] == [True, True, True, False]


def test_a_checkpoint_takes_pixels_as_every_engine_does(here: Path, tiny_checkpoint: Checkpoint) -> None:
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pre = tiny_checkpoint.contract.preprocessing
    normalised_NHWC = (pixels_NHWC / 255 - pre.mean) / pre.std
    with torch.inference_mode():
        expected_NK = tiny_checkpoint.build()(torch.tensor(normalised_NHWC.transpose(0, 3, 1, 2), dtype=torch.float32))
    with open_contenders(["tiny.safetensors"], STORE) as ((contender,), _):
        logits_NK = contender.runner(pixels_NHWC)
    assert logits_NK.dtype == np.float32
    np.testing.assert_allclose(logits_NK, expected_NK.numpy(), atol=1e-4)  # float32 sums in another order


def test_the_whole_store_starts_with_float32(here: Path) -> None:
    with open_contenders(None, STORE, ["openvino"]) as (found, _):
        assert [c.name for c in found] == ["b-fp32", "a-int8"]
        assert unique_names(found) == ("b-fp32", "a-int8")


def test_every_runtime_that_runs_here(here: Path) -> None:
    with open_contenders(["b-fp32"], STORE, ["auto", "all"]) as (found, passed_over):
        runtimes = [c.runner.description.split()[0] for c in found]
        assert {"OpenVINO", "ONNX"} <= set(runtimes)
        assert len({c.runner.description for c in found}) == len(found), "one runtime came twice"
        assert unique_names(found) == tuple(f"b-fp32 in {c.runner.description}" for c in found)
        assert all(reason.partition(":")[0] in ("tensorrt", "onnxruntime-cuda") for reason in passed_over)


def test_a_wrong_request_is_one_line(here: Path, tmp_path: Path) -> None:
    other = hostile_classifier(tmp_path / "other.onnx")
    model = load_onnx(other)
    contract = contract_in(model, source="other")
    assert contract is not None
    names = ("cat", "dog", "cow")
    set_contract(model, dataclasses.replace(contract, labels=names, class_ids=names))
    save_onnx(model, other)
    for engines, message in (
        (["b-fp32", "b-fp32"], "--engine b-fp32: is named twice"),
        (["b-fp32", str(other)], f"--engine {other}: has 3 classes that are not the 3 of b-fp32"),
    ):
        with pytest.raises(UsageError, match=message), open_contenders(engines, STORE):
            pass
    with (
        pytest.raises(InputError, match=r"none\.safetensors: no such checkpoint"),
        open_contenders(["none.safetensors"], STORE),
    ):
        pass
    with pytest.raises(UsageError, match="--runtime abacus: unknown"), open_contenders(["b-fp32"], STORE, ["abacus"]):
        pass


def test_images_that_calibrated_are_found_by_content(here: Path, photo_folder: Path, tmp_path: Path) -> None:
    with open_contenders(["b-fp32", "a-int8"], STORE, ["openvino"]) as (found, _):
        contract = found[0].runner.contract
        clean = calibration_overlap(found, list_labelled(photo_folder / "val", contract))
        six = calibration_overlap(found, list_labelled(photo_folder / "train", contract))
        shutil.copytree(photo_folder / "val", tmp_path, dirs_exist_ok=True)
        copy = shutil.copy(six.calibrated["a-int8"][0], tmp_path / "n02_green/renamed.jpg")
        (tmp_path / "n02_green/dangling.jpg").symlink_to("nowhere.jpg")
        one = calibration_overlap(found, list_labelled(tmp_path, contract))
    refuse_calibration_images(clean)
    assert clean == Overlap({}, {})
    assert one == Overlap({"a-int8": (copy,)}, {})
    with pytest.raises(InputError, match=r"renamed\.jpg: calibrated a-int8; on these it looks better than it is"):
        refuse_calibration_images(one)
    assert len(six.calibrated["a-int8"]) == 6
    with pytest.raises(InputError, match="calibrated a-int8, as did 5 more of these images; on these"):
        refuse_calibration_images(six)


def test_a_damaged_record_is_no_excuse(here: Path, tmp_path: Path) -> None:
    """The bundle's own checksum tells before anything is measured."""
    shutil.copytree(here / "engines/a-int8", tmp_path / "damaged")
    (tmp_path / "damaged/calibration.json").write_text("{}")
    with pytest.raises(ArtifactError, match="build the bundle again"), open_contenders(["damaged"], tmp_path):
        pass
