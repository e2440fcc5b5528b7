"""Calibrated bundles: what changes in them, what is refused, and the commands."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_deploy.build.engine import BORROWED
from alexnet_deploy.bundle.manifest import CALIBRATION, CONFIDENCE, MANIFEST, MODEL, load_manifest, save_manifest
from alexnet_deploy.bundle.verified import open_bundle, verify
from alexnet_deploy.errors import ArtifactError, DeployError, InputError
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.evaluation.confidence.calibrate import calibrate
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, read_confidence
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.probabilities import probabilities
from alexnet_deploy.runtime.select import open_runner
from tests.evaluation.confidence.conftest import IMAGES
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES

DATA = Path("data")
EXACT, RUINED = Path("engines/exact"), Path("engines/ruined")


def fitted(bundle: Path, data: Path = DATA, **more: Any) -> ConfidenceRecord:
    with closing(open_runner(open_bundle(bundle), "onnxruntime").runner) as runner:
        return calibrate(bundle, runner, data, **more).record


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_refused(bundle: Path, error: type[DeployError], match: str, **more: Any) -> None:
    before = content(bundle)
    with pytest.raises(error, match=match):
        fitted(bundle, **more)
    assert content(bundle) == before


def test_the_temperature_stands_everywhere_and_each_precision_has_its_own(here: Path) -> None:
    temperatures = []
    for bundle in (EXACT, RUINED):
        before, built = content(bundle), load_manifest(bundle)[0]
        record = fitted(bundle)
        manifest = verify(bundle)[0]
        contract = record.applied_to(built.contract)
        assert manifest == dataclasses.replace(built, contract=contract)
        assert contract_in(load_onnx(bundle / MODEL), source="") == contract
        assert read_confidence(bundle, contract) == record
        after = content(bundle)
        assert after.keys() == before.keys() | {CONFIDENCE}
        assert {name for name in before if after[name] != before[name]} == {MODEL, MANIFEST}
        assert (record.images, record.classes, record.runtime[:4]) == (3 * IMAGES, 3, "ONNX")
        assert record.after.nll_nats < record.before.nll_nats
        assert sum(row.images for row in record.after.bins) == 3 * IMAGES
        temperatures.append(record.temperature)
    assert 1 not in temperatures
    assert temperatures[0] != pytest.approx(temperatures[1], rel=1e-4)


def test_infer_reports_calibrated_probabilities(here: Path) -> None:
    record = fitted(EXACT)
    file = DATA / "n02_green" / "0.png"
    with closing(open_runner(open_bundle(EXACT), "onnxruntime").runner) as runner:
        logits_K = collect_answers([runner], list_labelled(DATA, runner.contract)).logits_NK[0][IMAGES]
        ((*top,),) = (row.top for row in predict(runner, [file], top_k=3))
    contract = record.applied_to(open_bundle(EXACT).contract)
    assert contract == open_bundle(EXACT).contract
    expected_K = probabilities(logits_K[None], contract)[0]
    for answer in top:
        assert answer.probability == pytest.approx(expected_K[answer.index])


def test_a_second_fit_replaces_the_first(here: Path) -> None:
    first = fitted(EXACT)
    kept = {name: here / f"kept-{name}" for name in content(EXACT)}
    for name, link in kept.items():
        os.link(EXACT / name, link)
    then = content(EXACT)
    second = fitted(EXACT)
    assert second.temperature == pytest.approx(first.temperature, rel=1e-9)
    # What the old bundle's files are linked to elsewhere must not change with the new one.
    assert {name: link.read_bytes() for name, link in kept.items()} == then


def copy_of(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_images_that_calibrated_int8_are_refused(here: Path) -> None:
    used = json.loads((RUINED / CALIBRATION).read_text())["files"][0]["file"]
    copy_of(here / "photos/train" / used, DATA / used.split("/")[0] / "innocent.jpg")
    assert_refused(RUINED, InputError, r"innocent\.jpg: calibrated engines/ruined; .*give other images")
    fitted(EXACT)  # no image calibrated that one


def test_folders_that_share_an_image_are_refused(here: Path) -> None:
    other = here / "other"
    copy_of(here / "photos/val/n01_red/0.jpg", other / "a.jpg")
    fitted(EXACT, training_data=other)
    for i in range(2):
        copy_of(DATA / f"n03_blue/{i}.png", other / f"deep/{i}.png")
    shared = r"0\.png: also lies in `training_data` .*other, along with 1 more of"
    assert_refused(EXACT, InputError, shared, training_data=other)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: shutil.copytree(RUINED, EXACT, dirs_exist_ok=True), "was replaced while its images ran"),
        (lambda: (EXACT / "sm89.plan").write_bytes(b"edited"), r"sm89\.plan: has 6 bytes"),
    ],
)
def test_a_bundle_that_changes_meanwhile_is_left_alone(here: Path, act: Callable[[], object], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        fitted(EXACT, on_progress=lambda *_: act())
    assert not (EXACT / CONFIDENCE).exists()
    assert load_manifest(EXACT)[0].contract.temperature == 1


def test_a_bundle_with_a_file_of_the_user_is_left_alone(here: Path) -> None:
    (EXACT / "notes.txt").write_text("mine")
    assert_refused(EXACT, InputError, r"notes\.txt")


def test_contracts_that_disagree_are_refused(here: Path) -> None:
    manifest = load_manifest(EXACT)[0]
    model = load_onnx(EXACT / MODEL)
    set_contract(model, dataclasses.replace(manifest.contract, temperature=3.0))
    save_onnx(model, EXACT / MODEL)
    save_manifest(manifest, EXACT)
    assert_refused(EXACT, ArtifactError, "carry different contracts")


def test_the_command_and_inspect(here: Path, command: Command) -> None:
    assert "temperature 1, probabilities are not calibrated" in command("inspect", "exact").out
    arguments = ("--data", "data", "--runtime", "onnxruntime", "--plot", "r.png", "--json")
    found = json.loads(command("calibrate-confidence", "exact", *arguments).out)
    assert found["temperature"] == open_bundle(EXACT).contract.temperature
    assert len(found["after"]["bins"]) == 15
    assert (found["images"], len(found["images_digest"])) == (3 * IMAGES, 64)
    with Image.open("r.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
    out = command("inspect", "exact").out
    assert f"temperature {found['temperature']:.4f}" in out
    assert f", fitted on {3 * IMAGES} images" in out
    assert f"unknown where {found['rejection']['score'].replace('-', ' ')} is below" in out
    assert "record of the fit of its confidence" in out


def test_images_of_the_fit_are_refused_by_evaluate(here: Path, command: Command) -> None:
    fitted(EXACT)
    run = partial(command, "evaluate", "--runtime", "onnxruntime", "--no-latency")
    on_its_images = ("data", "--engine", "exact")
    refused = run(*on_its_images)
    assert (refused.code, refused.out) == (1, "")
    assert "0.png: fitted the temperature of exact, along with 119 more of these images; its pro" in refused.err
    (engine,) = json.loads(run(*on_its_images, "--allow-calibration-images", "--json").out)["engines"]
    assert (engine["calibration_images"], engine["temperature_images"]) == (None, 3 * IMAGES)
    shown = run(*on_its_images, "--allow-calibration-images").out
    assert "exact: its probabilities were calibrated on 120 of these images" in " ".join(shown.split())
    assert "probabilities were" not in run("photos/val", "--engine", "exact").out  # other images
    # A bundle that was not fitted on them may be measured on them, and a model.onnx alone has no record.
    assert run("data", "--engine", "ruined").code == 0
    shutil.copy(EXACT / MODEL, "alone.onnx")
    alone = run("data", "--engine", "alone.onnx").out
    assert "no record shows whether its probabilities were calibrated" in " ".join(alone.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data", "photos/val"), 1, "6 usable images are too few"),
        (("--data", "data", "--evaluation-data", "data/n01_red"), 1, "also lies in --evaluation-data data/n01_red"),
        (("--data", "data", "--plot", "r.bmp"), 2, "--plot r.bmp: does not end in one of .png, .svg, .pdf"),
        (("--data", "data", "--plot", "photos.png"), 2, "--plot photos.png: is not a plain file; name a file"),
        (("--data", "data", "--plot", "/proc/r.png"), 1, "--plot /proc/r.png: cannot be written"),
    ],
)
def test_the_command_refuses_in_one_line(
    here: Path, command: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    Path("photos.png").mkdir()
    ran = command("calibrate-confidence", "exact", "--runtime", "onnxruntime", *arguments)
    assert ran.code == code, ran.err
    assert words in ran.err.splitlines()[-1]
    assert not (EXACT / CONFIDENCE).exists()
    assert open_bundle(EXACT).contract.temperature == 1.0


def test_build_engine_calibrates_on_data_that_it_is_given(here: Path, command: Command) -> None:
    options = (
        "--int8",
        "--calibration-data",
        "photos/train",
        "--calibration-images",
        "6",
        "--calibration-method",
        "max",
    )
    ran = command("build-engine", "colours.onnx", *options, "--confidence-data", "data", "-o", "engines/mine", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    contract = open_bundle(Path("engines/mine")).contract
    record = read_confidence(Path("engines/mine"), contract)
    assert record is not None
    assert (record.images, record.rejection, contract.rejection) == (3 * IMAGES, None, None)
    assert found["confidence"]["images_digest"] == record.digest()
    assert found["contract"] == json.loads(contract.to_json())


def test_its_own_calibration_replaces_a_borrowed_one_and_its_note(here: Path) -> None:
    manifest = load_manifest(RUINED)[0]
    save_manifest(dataclasses.replace(manifest, notes=(f"{BORROWED} was fitted to float32", "stays")), RUINED)
    fitted(RUINED)
    assert load_manifest(RUINED)[0].notes == ("stays",)


def test_build_engine_says_what_it_made_where_data_tell_no_calibration(here: Path, command: Command) -> None:
    for k, (name, colour) in enumerate(CLASSES.items()):
        Path("easy", name).mkdir(parents=True)
        for i in range(IMAGES):
            picture = Image.new("RGB", (8, 8), colour)
            picture.putpixel((i % 8, i // 8), (k, i, 0))
            picture.save(f"easy/{name}/{i}.png")
    ran = command("build-engine", "colours.onnx", "--confidence-data", "easy", "-o", "engines/mine")
    assert ran.code == 1
    assert "engines/mine/ is built; its probabilities were not calibrated on easy" in ran.err
    assert "all 120 answers are right" in ran.err.splitlines()[-1]
    assert not open_bundle(Path("engines/mine")).contract.is_calibrated


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: shutil.rmtree("data/n01_red"), "80 usable images are too few"),
        (lambda: os.rename("data/n01_red", "data/other"), "folder 'other' is not a class of this model"),
        (lambda: copy_of(Path("photos/val/n01_red/0.jpg"), DATA / "n01_red/a.jpg"), "also lies in --validation-data"),
        (
            lambda: [copy_of(f, DATA / f.parent.name / f.name) for f in Path("photos/train").rglob("*.jpg")],
            "calibrated",
        ),
    ],
)
def test_build_engine_refuses_confidence_data_before_it_builds(
    here: Path, command: Command, spoil: Callable[[], object], words: str
) -> None:
    spoil()
    quantised = ("--int8", "--calibration-data", "photos/train", "--calibration-images", "6", "--fp16")
    drop = ("--max-drop", "100", "--validation-data", "photos/val")
    ran = command("build-engine", "colours.onnx", "--confidence-data", "data", "-o", "engines/mine", *quantised, *drop)
    assert ran.code == 1
    assert words in ran.err.splitlines()[-1], ran.err
    assert not Path("engines/mine").exists()
