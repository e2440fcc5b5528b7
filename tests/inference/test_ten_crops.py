"""Ten views of each image on engines: the average by hand, the same as training's, on every runtime and precision."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.calibration import Rejection
from alexnet_deploy.contract import Activation, BatchProfile, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images import sources
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.ten_crops import picture_for_crops, ten_crops
from alexnet_deploy.inference.batches import require_batch
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.side_by_side import SideBySide
from alexnet_deploy.inference.ten_crops import mean_over_views
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from alexnet_deploy.probabilities import activate, softmax
from alexnet_deploy.runtime.runner import AnyBatch
from tests.helpers.command import Command
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_model
from tests.helpers.runners import FakeRunner, numbered_contract
from training.data.lists.listing import list_class_folders
from training.results.evaluate import collect_answers

SIDE = 8
CONTRACT = dataclasses.replace(
    numbered_contract(256, SIDE), preprocessing=Preprocessing(SIDE, SIDE, "stretch", 12, interpolation="nearest")
)
NARROW = st.floats(-50, 50, width=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures of brightness 0..19; number 3 is damaged."""
    for i in range(20):
        path = tmp_path / f"{i:03}.png"
        Image.new("RGB", (12, 12), (i, 0, 0)).save(path)
        if i == 3:
            path.write_bytes(path.read_bytes()[:50])
    return tmp_path


class TestMeanOverViews:
    def test_probabilities_are_averaged_not_logits(self) -> None:
        """One view is very sure of the second class, nine lean to the first: e / (e + 2) = 0.5761 each."""
        logits_VNK = np.array([[[0.0, 100.0, 0.0]], *[[[1.0, 0.0, 0.0]]] * 9], np.float32)
        expected = [0.9 * 0.5761, 0.1 + 0.9 * 0.2119, 0.9 * 0.2119]
        assert softmax(mean_over_views(logits_VNK, "softmax"))[0].tolist() == pytest.approx(expected, abs=1e-4)

    @given(hnp.arrays(np.float32, st.tuples(st.integers(1, 10), st.integers(1, 3), st.integers(2, 5)), elements=NARROW))
    def test_what_comes_out_has_the_mean_of_the_probabilities(self, logits_VNK: NDArray[np.float32]) -> None:
        for activation in ("softmax", "sigmoid"):
            expected_NK = np.mean([activate(view_NK, activation) for view_NK in logits_VNK], axis=0)
            # float32 has 24 bits: a logit near 50 is rounded by up to 2e-6, and a probability by that share of itself.
            np.testing.assert_allclose(
                activate(mean_over_views(logits_VNK, activation), activation), expected_NK, rtol=1e-5, atol=1e-30
            )

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    @given(row=hnp.arrays(np.float32, (1, 4), elements=st.floats(-6000, 6000, width=32)))
    def test_equal_views_give_their_own_logits(self, activation: Activation, row: NDArray[np.float32]) -> None:
        """Also of classes whose probability is 0 in float64, so that their order stays."""
        # 1e-3: the float32 nearest to a number near 6000 is up to 2.4e-4 off; sums of ten in float64 add nothing.
        np.testing.assert_allclose(mean_over_views(np.stack([row] * 10), activation), row, atol=1e-3)

    def test_one_view_that_is_not_finite_spoils_its_picture_alone(self) -> None:
        logits_VNK = np.zeros((10, 3, 2), np.float32)
        logits_VNK[4, 0, 1], logits_VNK[9, 2, 0] = np.nan, np.inf
        for activation in ("softmax", "sigmoid"):
            assert np.isnan(mean_over_views(logits_VNK, activation)).all(axis=1).tolist() == [True, False, True]


class TestPredict:
    @pytest.mark.parametrize("batch", [1, 3, 7, 32])
    def test_rows_in_order_and_no_call_beyond_the_batch(self, folder: Path, batch: int) -> None:
        runner = FakeRunner(CONTRACT)
        rows = list(predict(runner, sorted(folder.iterdir()), ten_crop=True, batch=batch))
        assert [row.error is not None for row in rows] == [i == 3 for i in range(20)]
        assert [row.top[0].index for row in rows if row.top] == [i for i in range(20) if i != 3]
        assert sum(runner.sizes) == 190
        assert max(runner.sizes) <= batch

    def test_a_full_batch_of_pictures_fills_every_call_of_a_fixed_batch(self, folder: Path) -> None:
        runner = FakeRunner(CONTRACT, BatchProfile(4, 4, 4))
        good = [path for path in sorted(folder.iterdir()) if path.stem != "003"][:12]
        list(predict(AnyBatch(runner, "fixed"), good, ten_crop=True, batch=4))
        assert runner.sizes == [4] * 30
        rows = list(predict(AnyBatch(runner, "fixed"), good[:3], ten_crop=True, batch=4))
        assert [row.top[0].index for row in rows] == [0, 1, 2]

    def test_runners_side_by_side_give_the_same_rows(self, folder: Path) -> None:
        alone = list(predict(FakeRunner(CONTRACT), sorted(folder.iterdir()), ten_crop=True, batch=2))
        runners = SideBySide([FakeRunner(CONTRACT), FakeRunner(CONTRACT)])
        try:
            assert list(predict(runners, sorted(folder.iterdir()), ten_crop=True, batch=2)) == alone
        finally:
            runners.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]

    def test_each_image_is_decoded_once(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[Path] = []
        original = sources.load_pixels

        def counted(path: Path, pre: Preprocessing, out: NDArray[np.uint8]) -> object:
            opened.append(path)
            return original(path, pre, out)

        monkeypatch.setattr(sources, "load_pixels", counted)
        list(predict(FakeRunner(CONTRACT), sorted(folder.iterdir()), ten_crop=True))
        assert sorted(opened) == sorted(folder.iterdir())

    def test_a_rule_for_unknown_answers_does_not_apply(self, folder: Path) -> None:
        contract = dataclasses.replace(CONTRACT, rejection=Rejection("max-logit", 1e9))
        for ten_crop, mark in ((False, True), (True, None)):
            row = next(predict(FakeRunner(contract), sorted(folder.iterdir()), ten_crop=ten_crop))
            assert row.unknown is mark

    def test_the_calibration_applies_to_the_average(self, folder: Path) -> None:
        """Nine views in ten see the class of the brightness, the corners of one picture another."""
        picture_HWC = np.full((12, 12, 3), 7, np.uint8)
        picture_HWC[0, 0] = 9  # seen by the first pixel of one view: top left
        Image.fromarray(picture_HWC).save(folder / "odd.png")
        plain, calibrated = (dataclasses.replace(CONTRACT, temperature=t) for t in (1.0, 2.0))
        (row,) = predict(FakeRunner(plain), [folder / "odd.png"], ten_crop=True, outputs="probabilities")
        views_NK = 10 * np.eye(256, dtype=np.float32)[[9] + [7] * 9]
        assert row.values is not None
        np.testing.assert_allclose(row.values, softmax(views_NK).mean(axis=0), rtol=1e-5)  # float32 logits
        (row,) = predict(FakeRunner(calibrated), [folder / "odd.png"], ten_crop=True, outputs="probabilities")
        assert row.values is not None
        expected_K = np.sqrt(softmax(views_NK).mean(axis=0))
        np.testing.assert_allclose(row.values, expected_K / expected_K.sum(), rtol=1e-5)

    def test_a_batch_whose_pictures_fit_no_memory_is_refused_at_the_call(self) -> None:
        picture = picture_for_crops(CONTRACT.preprocessing)
        most = (2 << 30) // (12 * 12 * 3)
        with pytest.raises(UsageError, match=f"^`batch` {most + 1}: .* choose {most} or less$"):
            predict(FakeRunner(CONTRACT), [], ten_crop=True, batch=most + 1)
        require_batch(most, picture)


RULES = (
    Preprocessing(32, 32, resize_to=36),
    Preprocessing(32, 32, "stretch", 41, crop_offset="floor"),
    Preprocessing(32, 32, "stretch", None),
    Preprocessing(32, 32, resize_to=32),
)


def model_of(path: Path, pre: Preprocessing, precision: str = "fp32", **options: Any) -> Path:
    """``tiny_model`` with other preprocessing."""
    model = load_onnx(tiny_model(path, precision, **options))
    set_contract(model, dataclasses.replace(TINY_CONTRACT, preprocessing=pre))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("precision", "runtime"), [("fp32", "onnxruntime"), ("fp16", "openvino"), ("int8", "openvino")]
)
@pytest.mark.parametrize("pre", RULES)
def test_the_logits_are_those_of_the_ten_views(
    pre: Preprocessing, precision: str, runtime: Any, photo_folder: Path, tmp_path: Path
) -> None:
    """Each view through the engine by itself, then the mean of the probabilities."""
    files = sorted((photo_folder / "val").rglob("*.jpg"))
    path = model_of(tmp_path / "tiny.onnx", pre, precision)
    with open_engine(path, runtime=runtime, threads=1, verify=False) as engine:
        rows = list(engine.predict(files, outputs="logits", ten_crop=True, batch=4))
        for file, row in zip(files, rows, strict=True):
            views_VHWC = ten_crops(load_pixels(file, picture_for_crops(pre)), pre)
            mean_K = np.mean([softmax(engine(view_HWC[None]))[0] for view_HWC in views_VHWC], axis=0)
            assert row.values is not None
            # A batch of four may be summed in another order than a single view.
            np.testing.assert_allclose(softmax(np.array([row.values]))[0], mean_K, rtol=1e-3, atol=1e-6)


def test_an_engine_of_a_fixed_batch_gives_the_same(photo_folder: Path, tmp_path: Path) -> None:
    files = sorted((photo_folder / "val").rglob("*.jpg"))
    rows = []
    for batch in ("N", 4):
        path = model_of(tmp_path / f"{batch}.onnx", RULES[0], batch=batch)
        with open_engine(path, runtime="onnxruntime", threads=1, verify=False) as engine:
            rows.append([row.values for row in engine.predict(files, outputs="logits", ten_crop=True)])
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-5)  # sums in another order


def test_training_and_engines_give_the_same(
    tiny_checkpoint: Checkpoint, tiny_onnx: Path, photo_folder: Path, command: Command
) -> None:
    images = list_class_folders(photo_folder / "val")
    trained = collect_answers(tiny_checkpoint, images, workers=0, ten_crop=True)
    options = ("--engine", tiny_onnx, "--runtime", "openvino", "--ten-crop")
    ran = command("infer", *images.files, *options, "--outputs", "logits", "--format", "jsonl")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["file"] for row in rows] == list(map(str, images.files))
    # Two libraries sum in another order; export accepts 1e-4.
    np.testing.assert_allclose([row["logits"] for row in rows], trained.logits_NK[0], rtol=1e-4, atol=1e-4)
    ran = command("evaluate", photo_folder / "val", *options, "--no-latency", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    right_N = trained.logits_NK[0].argmax(axis=1) == trained.target_N
    assert (report["views"], report["engines"][0]["top1_percent"]) == (10, pytest.approx(100 * right_N.mean()))


def test_without_a_margin_one_line_says_so(photo_folder: Path, tmp_path: Path, command: Command) -> None:
    for number, pre in enumerate((RULES[3], RULES[0])):
        path = model_of(tmp_path / f"{number}.onnx", pre)
        ran = command("infer", photo_folder / "val", "--engine", path, "--runtime", "openvino", "--ten-crop")
        assert ("no margin around the crop: the ten views are the image and its mirror image" in ran.err) == (
            number == 0
        )


def test_evaluate_names_the_views_and_times_all_of_them(here: Path, command: Command) -> None:
    shown = command("evaluate", "photos/val", "--engine", "exact", "--runtime", "openvino", "--ten-crop")
    assert "6 images of photos/val, 10 views of each, folders named by class id" in shown.out
