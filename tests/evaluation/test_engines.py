"""Opening engines beside one another: every kind, every runtime here, and whose images calibrated them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.errors import ArtifactError, InputError, UsageError
from alexnet_deploy.evaluation.engines import (
    SharedImages,
    find_shared_images,
    open_engines,
    refuse_shared,
    unique_names,
)
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.select import RUNTIMES

STORE = Path("engines")


def test_checkpoint_onnx_and_bundle_beside_one_another(here: Path, tiny_checkpoint: Checkpoint) -> None:
    save_checkpoint(tiny_checkpoint, here / "tiny.safetensors")
    names = ["tiny.safetensors", "colours.onnx", "exact", "engines/ruined"]
    with open_engines(names, STORE, ["onnxruntime"]) as found:
        assert [(c.name, c.precision) for c in found] == list(zip(names, ["fp32"] * 3 + ["int8"], strict=True))
        assert [c.runner.runtime for c in found] == ["torch", *["onnxruntime"] * 3]
        sizes = [Path(p).stat().st_size for p in (*names[:2], f"engines/exact/{MODEL}", f"engines/ruined/{MODEL}")]
        assert [c.file.stat().st_size for c in found] == sizes
        assert [c.calibration_hashes is None for c in found] == [True, True, True, False]


def test_a_checkpoint_takes_pixels_as_every_engine_does(here: Path, tiny_checkpoint: Checkpoint) -> None:
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pre = tiny_checkpoint.contract.preprocessing
    normalised_NHWC = (pixels_NHWC / 255 - pre.mean) / pre.std
    with torch.inference_mode():
        expected_NK = tiny_checkpoint.build()(torch.tensor(normalised_NHWC.transpose(0, 3, 1, 2), dtype=torch.float32))
    save_checkpoint(tiny_checkpoint, here / "tiny.safetensors")
    with open_engines(["tiny.safetensors"], STORE) as (engine,):
        logits_NK = engine.runner(pixels_NHWC)
    assert logits_NK.dtype == np.float32
    np.testing.assert_allclose(logits_NK, expected_NK.numpy(), atol=1e-4)  # float32 sums in another order


def test_the_whole_store_starts_with_float32(here: Path) -> None:
    with open_engines(None, STORE, ["openvino"]) as found:
        assert [c.name for c in found] == ["exact", "ruined"]
        assert unique_names(found) == ("exact", "ruined")


def test_every_runtime_that_runs_here(here: Path) -> None:
    with open_engines(["exact"], STORE, ["auto", "all"]) as found:
        runtimes = [c.runner.runtime for c in found]
        assert {"openvino", "onnxruntime"} <= set(runtimes)
        assert len(set(runtimes)) == len(runtimes), "one runtime came twice"
        assert unique_names(found) == tuple(f"exact in {c.runner.description}" for c in found)
        passed_over = {each.runtime for c in found for each in c.passed_over}
        assert passed_over | set(runtimes) == set(RUNTIMES)


def test_each_engine_may_name_its_runtime(here: Path) -> None:
    with open_engines(["exact@openvino", "ruined", "exact@onnxruntime"], STORE, ["onnxruntime"]) as found:
        assert [(c.name, c.runner.runtime) for c in found] == [
            ("exact", "openvino"),
            ("ruined", "onnxruntime"),
            ("exact", "onnxruntime"),
        ]
    with open_engines(["exact@all"], STORE) as found:
        assert {"openvino", "onnxruntime"} <= {c.runner.runtime for c in found}
    shutil.copytree("engines/exact", "engines/exact@home")
    with open_engines(["exact@home", "engines/exact@home@openvino"], STORE, ["onnxruntime"]) as found:
        assert [c.runner.runtime for c in found] == ["onnxruntime", "openvino"]


def test_a_wrong_request_is_one_line(here: Path) -> None:
    other = Path("other.onnx")
    model = load_onnx(Path("colours.onnx"))
    contract = contract_in(model, source="other")
    assert contract is not None
    names = ("cat", "dog", "cow")
    set_contract(model, dataclasses.replace(contract, labels=names, class_ids=names))
    save_onnx(model, other)
    for engines, message in (
        (["exact", "exact"], "exact: is named twice"),
        (["exact", "ruined@abacus"], "ruined@abacus: 'abacus' is not a runtime; write NAME@RUNTIME"),
        (["exact", str(other)], rf"{other}: has 3 classes \(cat, ...\) that are not the 3 \(red, ...\) of exact"),
    ):
        with pytest.raises(UsageError, match=message), open_engines(engines, STORE):
            pass
    with (
        pytest.raises(InputError, match=r"none\.safetensors: no such checkpoint"),
        open_engines(["none.safetensors"], STORE),
    ):
        pass
    with pytest.raises(UsageError, match="`runtime` abacus: unknown"), open_engines(["exact"], STORE, ["abacus"]):
        pass


def test_images_that_calibrated_are_found_by_content(here: Path) -> None:
    with open_engines(["exact", "ruined"], STORE, ["openvino"]) as found:
        contract = found[0].runner.contract
        clean = find_shared_images(found, list_labelled(here / "photos/val", contract))
        six = find_shared_images(found, list_labelled(here / "photos/train", contract))
        copy = shutil.copy(six.calibration["ruined"][0], here / "photos/val/n02_green/renamed.jpg")
        (here / "photos/val/n02_green/dangling.jpg").symlink_to("nowhere.jpg")
        one = find_shared_images(found, list_labelled(here / "photos/val", contract))
    refuse_shared(clean)
    assert clean == SharedImages({}, {})
    assert one == SharedImages({"ruined": (copy,)}, {})
    with pytest.raises(InputError, match=r"renamed\.jpg: calibrated ruined; on these it looks better than it is"):
        refuse_shared(one)
    assert len(six.calibration["ruined"]) == 6
    with pytest.raises(InputError, match="calibrated ruined, like 5 more of these images; on these"):
        refuse_shared(six)


def test_a_damaged_record_is_no_excuse(here: Path) -> None:
    """The bundle's own checksum fails before anything is measured."""
    (here / "engines/ruined/calibration.json").write_text("{}")
    with pytest.raises(ArtifactError, match="build the bundle again"), open_engines(["ruined"], STORE):
        pass
