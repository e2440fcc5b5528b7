"""Temperatures: the fit against theory, what the bundle holds afterwards, and everything that must be refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import (
    CALIBRATION,
    CONFIDENCE,
    MANIFEST,
    MODEL,
    load_manifest,
    open_bundle,
    save_manifest,
    verify,
)
from alexnet_deploy.cli import main
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.evaluation.accuracy import calibration_error, confidence
from alexnet_deploy.evaluation.answers import answers_of
from alexnet_deploy.evaluation.reliability import reliability
from alexnet_deploy.evaluation.temperature import calibrate, fit_temperature, quality
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, read_confidence
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.colour_models import hostile_classifier
from tests.helpers.photos import CLASSES

IMAGES = 40
"""A class; three classes."""


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and true classes drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 3, (count, 10)).astype(np.float32)
    # Gumbel's trick: the argmax of logits plus Gumbel noise is a draw from their softmax.
    return logits_NK, (logits_NK / temperature + rng.gumbel(size=logits_NK.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_fit_finds_the_temperature_that_made_the_classes(temperature: float) -> None:
    found = fit_temperature(*drawn(20_000, temperature), source="drawn")
    assert found == pytest.approx(temperature, rel=0.03)  # four standard deviations at 20,000 images


@given(factor=st.floats(0.2, 5.0), seed=st.integers(0, 50))
@settings(max_examples=15)
def test_logits_scaled_scale_the_temperature(factor: float, seed: int) -> None:
    logits_NK, target_N = drawn(200, 1.0, seed)
    once = fit_temperature(logits_NK, target_N, source="drawn")
    scaled = fit_temperature(logits_NK * np.float32(factor), target_N, source="drawn")
    assert scaled == pytest.approx(factor * once, rel=1e-4)  # float32 logits, and a minimum is flat


def test_at_the_fit_the_true_class_has_the_logit_that_the_model_expects() -> None:
    """The derivative of the likelihood by 1 / T is 0 exactly there, whatever found it."""
    logits_NK, target_N = drawn(500, 1.7)
    powers_NK = np.exp(logits_NK.astype(np.float64) / fit_temperature(logits_NK, target_N, source="drawn"))
    expected = ((powers_NK / powers_NK.sum(axis=1, keepdims=True)) * logits_NK).sum(axis=1).mean()
    assert np.take_along_axis(logits_NK, target_N[:, None], axis=1).mean() == pytest.approx(expected, abs=1e-4)


GOOD, RIGHT = drawn(200, 1.0)


@pytest.mark.parametrize(
    ("logits_NK", "target_N", "words"),
    [
        (GOOD[:99], RIGHT[:99], "99 usable images are too few"),
        (GOOD, np.zeros_like(RIGHT), "one class"),
        (np.where(np.arange(200)[:, None] == 7, np.float32("nan"), GOOD), RIGHT, "not finite"),
        (np.ones_like(GOOD), RIGHT, "same answer"),
        (np.repeat(GOOD[:1], 200, axis=0), RIGHT, "same answer"),
        (GOOD, GOOD.argmax(axis=1), "all 200 answers are right"),
        (GOOD, GOOD.argmin(axis=1), "no temperature within"),
    ],
)
def test_what_tells_no_temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fit_temperature(logits_NK, target_N, source="photos")
    assert str(caught.value).startswith("photos: ")


def test_bins_by_hand() -> None:
    confidence_N = np.array([0.0, 0.5, 0.51, 0.9, 1.0])
    low, high = reliability(confidence_N, np.array([False, True, True, False, True]), bins=2)
    assert (low.low, low.high, low.images, low.accuracy_percent, low.confidence_percent) == (0, 0.5, 2, 50, 25)
    assert high.images == 3
    assert high.accuracy_percent == pytest.approx(200 / 3)
    assert high.confidence_percent == pytest.approx(100 * 2.41 / 3)
    assert reliability(np.array([0.4]), np.array([True]), bins=2)[1].accuracy_percent is None


@given(confidence_N=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), seed=st.integers(0, 9))
def test_bins_hold_every_image_and_give_the_calibration_error(confidence_N: NDArray[np.float64], seed: int) -> None:
    right_N = np.random.default_rng(seed).random(len(confidence_N)) < 0.5
    bins = reliability(confidence_N, right_N)
    assert sum(row.images for row in bins) == len(confidence_N)
    gaps = [row.images * abs((row.accuracy_percent or 0) - (row.confidence_percent or 0)) for row in bins]
    assert sum(gaps) / len(confidence_N) == pytest.approx(100 * calibration_error(confidence_N, right_N), abs=1e-9)


def test_quality_is_what_evaluate_says() -> None:
    found, said = quality(GOOD, RIGHT, 2.0), confidence(GOOD, RIGHT, 2.0)
    assert (found.nll_nats, found.ece_percent) == (said.nll_nats, said.ece_percent)
    by_bin = sum(r.images * (r.accuracy_percent or 0) for r in found.bins) / 200
    assert by_bin == pytest.approx(100 * (GOOD.argmax(axis=1) == RIGHT).mean())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """``engines/{fp32,int8}``, the photos that calibrated (``photos/train``) and ``data``: colours between classes."""
    root = tmp_path_factory.mktemp("confidence")
    shutil.copytree(photo_folder, root / "photos")
    onnx = hostile_classifier(root / "colours.onnx", outlier=2.0)  # enough to tell int8 from float32, not to ruin it
    chosen = choose_images(root / "photos/train", count=6)
    build_engine(onnx, root / "engines/fp32", EngineOptions("fp32", targets=("sm89",)))
    # max: six images are too few values for a histogram
    options = EngineOptions("int8", targets=("sm89",), calibration=chosen, method="max")
    build_engine(onnx, root / "engines/int8", options)
    rng = np.random.default_rng(0)
    colours = np.array([*CLASSES.values()], np.float64)
    for k, name in enumerate(CLASSES):
        (root / "data" / name).mkdir(parents=True)
        for i in range(IMAGES):
            share = rng.uniform(0, 0.6)  # beyond a half, the other class is nearer
            colour = (1 - share) * colours[k] + share * colours[(k + 1 + i % 2) % 3]
            pixels = np.clip(rng.normal(colour, 5, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    return root


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace, as the current folder."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = Path("data")
FP32, INT8 = Path("engines/fp32"), Path("engines/int8")


def fitted(bundle: Path, data: Path = DATA, **more: Any) -> ConfidenceRecord:
    with closing(open_runner(open_bundle(bundle), "onnxruntime").runner) as runner:
        return calibrate(bundle, runner, data, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("bundle", [FP32, INT8])
def test_the_temperature_stands_everywhere_or_nowhere(here: Path, bundle: Path) -> None:
    before, built = content(bundle), load_manifest(bundle)[0]
    record = fitted(bundle)
    manifest = verify(bundle)
    assert manifest == dataclasses.replace(
        built, contract=dataclasses.replace(built.contract, temperature=record.temperature)
    )
    assert contract_in(load_onnx(bundle / MODEL), source="") == manifest.contract
    assert read_confidence(bundle, manifest.contract) == record
    after = content(bundle)
    assert after.keys() == before.keys() | {CONFIDENCE}
    assert {name for name in before if after[name] != before[name]} == {MODEL, MANIFEST}

    assert (record.images, record.classes, record.runtime[:4]) == (3 * IMAGES, 3, "ONNX")
    assert record.after.nll_nats < record.before.nll_nats
    assert record.temperature != 1
    assert sum(row.images for row in record.after.bins) == 3 * IMAGES


def test_infer_reports_calibrated_probabilities(here: Path) -> None:
    temperature = fitted(FP32).temperature
    file = DATA / "n02_green" / "0.png"
    with closing(open_runner(open_bundle(FP32), "onnxruntime").runner) as runner:
        logits_K = answers_of([runner], list_labelled(DATA, runner.contract)).logits_NK[0][IMAGES]
        ((*top,),) = (row.top for row in predict(runner, [file], top_k=3))
    powers_K = np.exp(logits_K.astype(np.float64) / temperature)
    for answer in top:
        assert answer.probability == pytest.approx(powers_K[answer.index] / powers_K.sum())


def test_a_second_fit_replaces_the_first(here: Path) -> None:
    first = fitted(FP32)
    kept = {name: here / f"kept-{name}" for name in content(FP32)}
    for name, link in kept.items():
        os.link(FP32 / name, link)
    then = content(FP32)
    second = fitted(FP32)
    assert second.temperature == pytest.approx(first.temperature, rel=1e-9)
    # What the old bundle's files are linked to elsewhere must not change with the new one.
    assert {name: link.read_bytes() for name, link in kept.items()} == then


def test_each_precision_has_its_own(here: Path) -> None:
    assert fitted(FP32).temperature != pytest.approx(fitted(INT8).temperature, rel=1e-4)


def copy_of(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_images_that_calibrated_int8_are_refused(here: Path) -> None:
    used = json.loads((INT8 / CALIBRATION).read_text())["files"][0]["file"]
    copy_of(here / "photos/train" / used, DATA / used.split("/")[0] / "innocent.jpg")
    before = content(INT8)
    with pytest.raises(InputError, match=r"innocent\.jpg: calibrated engines/int8; .*give other images"):
        fitted(INT8)
    assert content(INT8) == before
    fitted(FP32)  # no image calibrated that one


def test_folders_that_share_an_image_are_refused(here: Path) -> None:
    other = here / "other"
    copy_of(here / "photos/val/n01_red/0.jpg", other / "a.jpg")
    fitted(FP32, disjoint={"--training-data": other})
    for i in range(2):
        copy_of(DATA / f"n03_blue/{i}.png", other / f"deep/{i}.png")
    before = content(FP32)
    with pytest.raises(InputError, match=r"0\.png: also lies in --training-data .*other, as do 1 more; "):
        fitted(FP32, disjoint={"--training-data": other})
    assert content(FP32) == before


class Meddling:
    """A runner during whose work something happens to the bundle."""

    def __init__(self, inner: Runner, act: Callable[[], object]) -> None:
        self.contract, self.description, self.batch = inner.contract, inner.description, inner.batch
        self.inner, self.act, self.close = inner, act, inner.close

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.act()
        return self.inner(pixels_NHWC)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: shutil.copytree(INT8, FP32, dirs_exist_ok=True), "was replaced while its images ran"),
        (lambda: (FP32 / "sm89.plan").write_bytes(b"edited"), r"sm89\.plan: has 6 bytes"),
    ],
)
def test_a_bundle_that_changes_meanwhile_is_left_alone(here: Path, act: Callable[[], object], words: str) -> None:
    with (
        closing(open_runner(open_bundle(FP32), "onnxruntime").runner) as runner,
        pytest.raises(ArtifactError, match=words),
    ):
        calibrate(FP32, Meddling(runner, act), DATA)
    assert not (FP32 / CONFIDENCE).exists()
    assert load_manifest(FP32)[0].contract.temperature == 1


def test_a_bundle_with_a_file_of_the_user_is_left_alone(here: Path) -> None:
    (FP32 / "notes.txt").write_text("mine")
    before = content(FP32)
    with pytest.raises(InputError, match=r"notes\.txt"):
        fitted(FP32)
    assert content(FP32) == before


def test_contracts_that_disagree_are_refused(here: Path) -> None:
    manifest = load_manifest(FP32)[0]
    model = load_onnx(FP32 / MODEL)
    set_contract(model, dataclasses.replace(manifest.contract, temperature=3.0))
    save_onnx(model, FP32 / MODEL)
    save_manifest(manifest, FP32)
    with pytest.raises(ArtifactError, match="carry different contracts"):
        fitted(FP32)


def a_record() -> ConfidenceRecord:
    hashes = tuple(f"{i:064x}" for i in range(200))
    return ConfidenceRecord(2.0, 10, hashes, quality(GOOD, RIGHT, 1.0), quality(GOOD, RIGHT, 2.0), "fake", {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw | {"temperature": -1.0},
        lambda raw: raw | {"temperature": "warm"},
        lambda raw: raw | {"images": 199},
        lambda raw: raw | {"sha256": raw["sha256"][::-1]},
        lambda raw: raw | {"sha256": ["0" * 63] * 200},
        lambda raw: raw | {"sha256": [1] * 200},
        lambda raw: raw | {"sha256": None},
        lambda raw: {key: value for key, value in raw.items() if key != "sha256"},
        lambda raw: raw | {"schema": 99},
        lambda raw: raw | {"more": 1},
        lambda raw: raw | {"tools": ["numpy"]},
        lambda raw: raw | {"before": raw["before"] | {"ece_percent": 10**400}},
        lambda raw: raw | {"after": raw["after"] | {"bins": [{"low": 0}]}},
        lambda raw: [raw],
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    record = a_record()
    (tmp_path / CONFIDENCE).write_text(record.to_json())
    contract = colours(2.0)
    assert read_confidence(tmp_path, contract) == record
    (tmp_path / CONFIDENCE).write_text(json.dumps(damage(json.loads(record.to_json()))))
    with pytest.raises(ArtifactError, match="calibrate-confidence") as caught:
        read_confidence(tmp_path, contract)
    assert len(str(caught.value)) < 400


def test_a_record_of_another_temperature_is_refused(tmp_path: Path) -> None:
    record = a_record()
    (tmp_path / CONFIDENCE).write_text(record.to_json())
    with pytest.raises(ArtifactError, match="fitted temperature 2, the bundle's contract has 1"):
        read_confidence(tmp_path, colours(1.0))


def colours(temperature: float) -> ModelContract:
    return ModelContract("colours", ("a", "b"), ("a", "b"), temperature=temperature)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *arguments])
    try:
        main()
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def test_the_command_and_inspect(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "inspect", "fp32") == 0
    assert "temperature 1, probabilities are not calibrated" in capsys.readouterr().out
    arguments = ("calibrate-confidence", "fp32", "--data", "data", "--runtime", "onnxruntime", "--plot", "r.png")
    assert run(monkeypatch, *arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["temperature"] == open_bundle(FP32).contract.temperature
    assert len(said["after"]["bins"]) == 15
    assert (said["images"], len(said["images_digest"])) == (3 * IMAGES, 64)
    with Image.open("r.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
    assert run(monkeypatch, "inspect", "fp32") == 0
    out = capsys.readouterr().out
    assert f"temperature {said['temperature']:.4f}, fitted on {3 * IMAGES} images" in out
    assert "the fit of its temperature" in out


def test_images_of_the_fit_are_refused_by_evaluate(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(FP32)
    evaluated = ("--engine", "fp32", "--runtime", "onnxruntime", "--no-latency")
    assert run(monkeypatch, "evaluate", "data", *evaluated) == 1
    ran = capsys.readouterr()
    assert not ran.out
    assert "0.png: the temperature of fp32 was fitted on it and 119 more of these images; on these" in ran.err
    assert run(monkeypatch, "evaluate", "data", *evaluated, "--allow-calibration-images", "--json") == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert (engine["calibration_images"], engine["temperature_images"]) == (None, 3 * IMAGES)
    assert run(monkeypatch, "evaluate", "data", *evaluated, "--allow-calibration-images") == 0
    assert "fp32: its temperature was fitted on 120 of these images" in " ".join(capsys.readouterr().out.split())
    assert run(monkeypatch, "evaluate", "photos/val", *evaluated) == 0  # others
    assert "temperature" not in capsys.readouterr().out
    # A bundle that was not fitted on them may be measured on them, its model.onnx alone has no record.
    assert run(monkeypatch, "evaluate", "data", "--engine", "int8", *evaluated[2:]) == 0
    shutil.copy(FP32 / MODEL, "alone.onnx")
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", "data", "--engine", "alone.onnx", *evaluated[2:]) == 0
    assert "no record tells whether its temperature was fitted" in " ".join(capsys.readouterr().out.split())


def test_the_command_refuses_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ("calibrate-confidence", "fp32", "--runtime", "onnxruntime")
    assert run(monkeypatch, *fit, "--data", "photos/val") == 1
    assert "6 usable images are too few" in capsys.readouterr().err
    assert run(monkeypatch, *fit, "--data", "data", "--evaluation-data", "data/n01_red") == 1
    assert "also lies in --evaluation-data data/n01_red" in capsys.readouterr().err
    assert run(monkeypatch, *fit, "--data", "data", "--plot", "r.bmp") == 2
    capsys.readouterr()
    Path("folder.png").mkdir()
    assert run(monkeypatch, *fit, "--data", "data", "--plot", "folder.png") == 2
    assert capsys.readouterr().err == "error: --plot folder.png: is not a plain file; name a file\n"
    assert run(monkeypatch, *fit, "--data", "data", "--plot", "/proc/r.png") == 1
    assert "error: --plot /proc/r.png: cannot be written" in capsys.readouterr().err
    assert not (FP32 / CONFIDENCE).exists()
    assert open_bundle(FP32).contract.temperature == 1.0
