"""Engines side by side: every kind, every runtime here, whose images calibrated them, and their answers."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, UsageError
from alexnet_deploy.evaluation.answers import collect_answers, targets_if_labelled
from alexnet_deploy.evaluation.engines import SharedImages, find_shared_images, open_engines, unique_names
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.openers import RUNTIMES
from alexnet_deploy.runtime.runner import AnyBatch
from tests.helpers.photos import CLASSES
from tests.helpers.runners import FakeRunner

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
    set_contract(model, dataclasses.replace(contract, class_ids=("x", "y", "z")))
    save_onnx(model, other)
    with open_engines(["exact", "engines/exact/@onnxruntime"], STORE, "onnxruntime") as found:
        assert len(found) == 1, "one engine on one runtime"
    with open_engines(["exact", other], STORE, "onnxruntime") as found:
        assert len(found) == 2, "the same labels are the same classes"
    names = ("cat", "dog", "cow")
    set_contract(model, dataclasses.replace(contract, labels=names, class_ids=names))
    save_onnx(model, other)
    (here / "engines/ruined/calibration.json").write_text("{}")
    for engines, runtimes, error, message in (
        (["exact", "exact"], ["auto"], UsageError, "exact: is named twice"),
        (["exact", "engines/exact/"], ["auto"], UsageError, "engines/exact/: is the same engine as exact"),
        ([], "auto", UsageError, "`engine`: none is given"),
        ("exact", [], UsageError, "`runtime`: none is given; choose auto, all, "),
        (["exact", "ruined@abacus"], ["auto"], UsageError, "ruined@abacus: 'abacus' is not a runtime; write NAME@"),
        (["exact"], ["abacus"], UsageError, "`runtime` abacus: unknown; choose auto, all, "),
        (
            ["exact", other],
            ["auto"],
            UsageError,
            rf"{other}: has 3 classes \(cat, ...\) that are not the 3 \(red, ...\)",
        ),
        (["none.safetensors"], ["auto"], InputError, r"none\.safetensors: no such checkpoint"),
        (["ruined"], ["auto"], ArtifactError, "build the bundle again"),
    ):
        with pytest.raises(error, match=message), open_engines(engines, STORE, runtimes):
            pass


def test_images_that_calibrated_are_found_by_content(here: Path) -> None:
    with open_engines(["exact", "ruined"], STORE, ["openvino"]) as found:
        contract = found[0].runner.contract
        clean = find_shared_images(found, list_labelled(here / "photos/val", contract))
        six = find_shared_images(found, list_labelled(here / "photos/train", contract))
        copy = shutil.copy(six[1].calibration[0], here / "photos/val/n02_green/renamed.jpg")
        (here / "photos/val/n02_green/dangling.jpg").symlink_to("nowhere.jpg")
        one = find_shared_images(found, list_labelled(here / "photos/val", contract))
    exact = SharedImages(None, None)
    assert clean == [exact, SharedImages((), None)]
    assert one == [exact, SharedImages((copy,), None)]
    assert len(six[1].calibration) == 6


IDS = ("n01", "n02", "n03", "n04")
CONTRACT = ModelContract("birds", IDS, IDS, Preprocessing(4, 4, "stretch", None))


class Reads(FakeRunner):
    """Answers with the number in the first pixel."""

    def __init__(self, contract: ModelContract = CONTRACT) -> None:
        super().__init__(contract)
        self.seen: list[NDArray[np.uint8]] = []

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(pixels_NHWC.copy())
        return np.eye(len(IDS), dtype=np.float32)[pixels_NHWC[:, 0, 0, 0]]


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


def test_all_runners_see_the_same_pixels(tmp_path: Path) -> None:
    for k in (0, 3):
        for i in range(20):  # 40 in all: more than a batch
            picture(tmp_path / IDS[k] / f"{i:02}.png", k)
    broken = tmp_path / IDS[0] / "10.png"
    broken.write_bytes(b"no image")
    progress: list[tuple[str, int, int]] = []
    runners = Reads(), Reads()
    found = collect_answers(runners, list_labelled(tmp_path, CONTRACT), on_progress=lambda *at: progress.append(at))
    assert (len(found.files), found.target_N.tolist()) == (39, [0] * 19 + [3] * 20)
    assert [file.parent.name for file in found.files] == [IDS[0]] * 19 + [IDS[3]] * 20
    assert [logits_NK.argmax(axis=1).tolist() for logits_NK in found.logits_NK] == [found.target_N.tolist()] * 2
    (line,) = found.unreadable
    assert line.startswith(f"{broken}: ")
    assert progress == [("images", 32, 40), ("images", 40, 40)]
    assert all(np.array_equal(a, b) for a, b in zip(runners[0].seen, runners[1].seen, strict=True))


@pytest.mark.parametrize(("sizes", "seen"), [((40, None), 40), ((None, 40), 40), ((None, None), 32), ((20, 20), 20)])
def test_engines_of_a_fixed_size_get_full_calls(tmp_path: Path, sizes: tuple[int | None, ...], seen: int) -> None:
    for i in range(40):
        picture(tmp_path / f"n01/{i:02}.png")
    inner = [FakeRunner(CONTRACT, None if size is None else BatchProfile(size, size, size)) for size in sizes]
    found = collect_answers([AnyBatch(each, "birds") for each in inner], list_labelled(tmp_path, CONTRACT))
    assert [len(logits_NK) for logits_NK in found.logits_NK] == [40, 40]
    assert all(each.sizes[0] == seen and sum(each.sizes) == 40 for each in inner)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "n01/1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of its images can be read"):
        collect_answers([Reads()], list_labelled(tmp_path, CONTRACT))


def test_runners_of_other_pixels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "n01/1.png")
    other = ModelContract("birds", IDS, IDS, Preprocessing(4, 4, "stretch", None, "bicubic"))
    with pytest.raises(
        UsageError, match=r"a and b preprocess differently \(interpolation: bilinear and bicubic\); measure"
    ):
        collect_answers([Reads(), Reads(other)], list_labelled(tmp_path, CONTRACT), names=("a", "b"))


def test_a_failing_runner_leaves_no_thread(tmp_path: Path) -> None:
    class Fails(Reads):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise InputError("fails")

    picture(tmp_path / "n01/1.png")
    with pytest.raises(InputError, match="fails"):
        collect_answers([Fails()], list_labelled(tmp_path, CONTRACT))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_labels_where_there_are_any(photo_folder: Path) -> None:
    contract = ModelContract("any", ("r", "g", "b"), tuple(CLASSES))
    files = sorted((photo_folder / "val").rglob("*.jpg"))
    targets, unlabelled = targets_if_labelled(photo_folder / "val", files, contract)
    assert (targets, unlabelled) == ([0, 0, 1, 1, 2, 2], None)
    targets, unlabelled = targets_if_labelled(photo_folder / "val", [*files, photo_folder / "a.jpg"], contract)
    assert targets is None
    assert "is not in a class folder" in str(unlabelled)
    targets, unlabelled = targets_if_labelled(files[0].parent, files[:2], contract)
    assert targets is None
    assert "holds no class folders" in str(unlabelled)
