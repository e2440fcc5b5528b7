"""Diagnosis: the layer that int8 ruins comes first, and every number is one that can be had another way."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.comparison.compare_layers import compare_layers
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.probabilities import kl_nats
from alexnet_deploy.report.plots import plot_diagnosis
from alexnet_deploy.sensitivity.layers import Diagnosis, diagnose
from alexnet_deploy.sensitivity.search import exclude_nodes
from alexnet_deploy.sensitivity.settings import DiagnoseSettings
from alexnet_deploy.sensitivity.variants import Effect
from tests.helpers.command import Command
from tests.helpers.models.colour_models import hostile_classifier
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier
from tests.helpers.photos import CLASSES

PIXELS = Preprocessing(8, 8, "stretch", None)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_classifier(tmp_path_factory.mktemp("hostile") / "colours.onnx")


def diagnosed(onnx: Path, data: Path, **settings: Any) -> Diagnosis:
    return diagnose(onnx, data, DiagnoseSettings(**{"calibration_method": "max"} | settings))


def with_both_folders(onnx: Path, photos: Path, **settings: Any) -> Diagnosis:
    """On the 6 images of ``val``, calibrated with the 18 of ``train``."""
    given = {"images": 6, "calibration_data": photos / "train", "calibration_images": 18} | settings
    return diagnosed(onnx, given.pop("data", photos / "val"), **given)


@pytest.fixture(scope="module")
def found(hostile: Path, photo_folder: Path) -> Diagnosis:
    return with_both_folders(hostile, photo_folder)


def test_the_ruined_layer_comes_first(found: Diagnosis) -> None:
    assert (found.images, found.calibration_images, found.unlabelled) == (6, 18, None)
    assert found.float_top1_percent == 100
    worst, *others = found.layers
    assert (worst.layer, worst.node, worst.op) == ("features.1", "features.1/Conv", "Conv")
    assert {row.layer for row in others} == {"features.0", "classifier"}
    # All colours round to 0: the same class for every image, a third of which is of it.
    assert worst.alone.top1_percent == pytest.approx(100 / 3)
    assert worst.alone.agreement_percent == pytest.approx(100 / 3)
    assert worst.alone.kl_nats > 1
    assert worst.sqnr_db == pytest.approx(0, abs=1e-6)  # the noise is the signal
    assert worst.restored.top1_percent == 100
    assert found.regained_nats(worst) == pytest.approx(found.everything.kl_nats, rel=0.05)
    for row in others:
        assert row.sqnr_db > 25  # 8 bits
        assert row.alone.agreement_percent == 100
        assert row.alone.kl_nats < 0.05
        assert abs(found.regained_nats(row)) < 0.05


def test_numbers_are_those_of_graphs_built_one_by_one(
    hostile: Path, found: Diagnosis, photo_folder: Path, tmp_path: Path
) -> None:
    calibration = choose_images(photo_folder / "train", count=18)
    pixels = np.stack([load_pixels(file, PIXELS) for file in choose_images(photo_folder / "val", count=6).files])

    def logits(path: Path) -> np.ndarray:
        return TensorSession(onnx.load(path), ["logits"], source=path.name)(pixels)["logits"]

    def built(exclude: str | None) -> Path:
        path, batches = tmp_path / "built.onnx", partial(calibration.batches, PIXELS, 18)
        to_quantized(hostile, path, precision="int8", batches=batches, method="max", exclude=exclude)
        return path

    def check(path: Path, effect: Effect) -> None:
        assert kl_nats(logits(hostile), logits(path), "softmax").mean() == pytest.approx(effect.kl_nats, rel=1e-5)

    for row in found.layers:
        others = exclude_nodes(None, [other.node for other in found.layers if other is not row])
        check(alone := built(others), row.alone)
        (here,) = [d for d in compare_layers(hostile, alone, [pixels]) if d.layer == row.layer]
        assert here.sqnr_db == pytest.approx(row.sqnr_db, abs=1e-3)
        check(built(exclude_nodes(None, [row.node])), row.restored)
    check(built(None), found.everything)


def test_images_that_diagnose_do_not_calibrate(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"val.*\.jpg: also calibrates, along with 5 more of these images; the result would look"
    ):
        with_both_folders(hostile, photo_folder, calibration_data=photo_folder / "val", calibration_images=6)
    shutil.copytree(photo_folder / "train", tmp_path / "train")
    first = next(iter(CLASSES))
    shutil.copy(photo_folder / "val" / first / "0.jpg", tmp_path / "train" / first / "renamed.jpg")
    with pytest.raises(InputError, match=r"0\.jpg: also calibrates; the result would look better"):
        with_both_folders(hostile, photo_folder, calibration_data=tmp_path / "train", calibration_images=19)


def test_one_folder_is_divided(hostile: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Mock(wraps=load_pixels)
    monkeypatch.setattr("alexnet_deploy.images.choose.load_pixels", load)
    found = diagnosed(hostile, photo_folder / "train", images=12, calibration_images=6)
    assert (found.images, found.calibration_images) == (12, 6)
    read = [call.args[0] for call in load.call_args_list]
    drawn, calibrating = set(read[:18]), set(read[18:])
    assert (len(drawn), len(calibrating)) == (18, 6)
    assert sorted(file.parent.name for file in calibrating) == sorted([*CLASSES] * 2)


@pytest.mark.parametrize(("asked", "told"), [((14, 7), (12, 6)), ((12, 12), (9, 9)), ((200, 1), (17, 1))])
def test_what_a_small_folder_would_do_with_works(
    hostile: Path, photo_folder: Path, asked: tuple[int, int], told: tuple[int, int]
) -> None:
    images, calibrating = told
    message = rf"holds 18 usable images, .* with `images` {images} `calibration_images` {calibrating}$"
    with pytest.raises(InputError, match=message):
        diagnosed(hostile, photo_folder / "train", images=asked[0], calibration_images=asked[1])
    found = diagnosed(hostile, photo_folder / "train", images=images, calibration_images=calibrating)
    assert (found.images, found.calibration_images) == told


def test_one_image_cannot_be_divided(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copy(next(photo_folder.glob("val/*/*.jpg")), tmp_path)
    with pytest.raises(InputError, match=r"with `images` 1 and `calibration_data` of another folder$"):
        diagnose(hostile, tmp_path)


def test_without_labels_there_is_no_accuracy(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    for index, file in enumerate(sorted(photo_folder.glob("val/*/*.jpg"))):
        shutil.copy(file, tmp_path / f"{index}.jpg")
    found = with_both_folders(hostile, photo_folder, data=tmp_path, images=4, calibration_images=6)
    assert found.float_top1_percent is None
    assert found.everything.top1_percent is None
    assert found.unlabelled is not None
    assert "holds no class folders" in found.unlabelled
    assert found.layers[0].layer == "features.1"


def test_a_batch_that_is_fixed_changes_nothing(found: Diagnosis, photo_folder: Path, tmp_path: Path) -> None:
    path = hostile_classifier(tmp_path / "fixed.onnx", batch=4)
    assert with_both_folders(path, photo_folder) == found


def test_fp8_leaves_the_outlier_alone(hostile: Path, photo_folder: Path) -> None:
    """A float8 also has numbers of 1/1000 of its range. It does not take the first layer."""
    found = with_both_folders(hostile, photo_folder, precision="fp8", calibration_method=None)
    assert {row.layer for row in found.layers} == {"features.1", "classifier"}
    assert found.method == "max"
    assert found.everything.agreement_percent == 100
    assert all(row.sqnr_db > 20 for row in found.layers)  # 4 bits of mantissa, error evenly spread


def test_models_of_other_tools_keep_their_names(photo_folder: Path, tmp_path: Path) -> None:
    path = foreign_classifier(tmp_path / "foreign.onnx")
    found = diagnosed(path, photo_folder / "train", images=9, calibration_images=9, import_options=FOREIGN)
    assert all(row.layer == row.node for row in found.layers)
    assert {row.op for row in found.layers} == {"Conv", "Gemm"}
    assert found.unlabelled is not None  # it has five classes, called by numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 0}, "`images` 0: must be 1 or more"),
        ({"calibration_images": 0}, "`calibration_images` 0: must be 1 or more"),
        ({"precision": "fp16"}, "`precision` fp16: unknown; choose one of int8, fp8"),
        ({"calibration_method": "mean"}, "`calibration_method` mean: unknown; choose one of max, percentile"),
        ({"calibration_method": "mse", "precision": "fp8"}, "`calibration_method` mse: does not fit fp8"),
        ({"exclude": ("a",)}, "`exclude` ('a',): is not a regular expression"),
        ({"exclude": "("}, "`exclude` (: is not a regular expression"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        DiagnoseSettings(**settings)


def test_a_missing_model_is_told_before_the_images(photo_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^nope.onnx: no such ONNX file"):
        diagnose("nope.onnx", photo_folder / "val")  # the default number of images is above 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": Path("nowhere")}, "nowhere: no such folder; `data` must be a folder"),
        ({"images": 7}, "holds 6 usable images, `images` requires 7"),
        ({"exclude": "."}, "check `exclude`"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hostile: Path, photo_folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        with_both_folders(hostile, photo_folder, **change)
    assert "\n" not in str(caught.value)


def test_command(hostile: Path, photo_folder: Path, tmp_path: Path, command: Command) -> None:
    given = ["diagnose", hostile, "--data", photo_folder / "val", "--calibration-data", photo_folder / "train"]
    given += ["--images", 6, "--calibration-images", 18, "--calibration-method", "max"]
    lines = command(*given, "--plot", tmp_path / "layers.png").out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["features.1", lines[2].split()[0], lines[3].split()[0], "all"]
    assert "+66.67" in lines[1]
    assert lines[5].startswith("int8 by max on 18 images, diagnosed on 6 others")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    worst = json.loads(command(*given, "--json").out)["layers"][0]
    assert worst["layer"] == "features.1"
    assert worst["kl_regained_nats"] > 1
    for more, code, message in (
        (("--plot", tmp_path / "layers.txt"), 2, "--plot "),
        (("--plot", "/proc/layers.png"), 1, "--plot /proc/layers.png: cannot be written"),
    ):
        ran = command(*given, *more)
        assert (ran.code, ran.err.startswith(f"error: {message}")) == (code, True)
    assert [p.name for p in tmp_path.iterdir()] == ["layers.png"]


def test_plots_share_no_state(found: Diagnosis, tmp_path: Path) -> None:
    """The second file of a process is the first, bit for bit."""
    for name in ("a.png", "b.png"):
        plot_diagnosis(found, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
