"""The temperature of a bundle: what changes in the bundle, what must be refused, and the command."""

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

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.evaluation.temperature import calibrate
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, read_confidence
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES
from tests.helpers.workplace import make_workplace

IMAGES = 40
"""Per class; three classes."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """With an outlier that tells int8 from float32 but does not ruin it, and ``data``: colours between classes."""
    root = tmp_path_factory.mktemp("confidence")
    # max: six images are too few values for a histogram
    make_workplace(root, photo_folder, outlier=2.0, calibration_method="max")
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


DATA = Path("data")
EXACT, RUINED = Path("engines/exact"), Path("engines/ruined")


def fitted(bundle: Path, data: Path = DATA, **more: Any) -> ConfidenceRecord:
    with closing(open_runner(open_bundle(bundle), "onnxruntime").runner) as runner:
        return calibrate(bundle, runner, data, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("bundle", [EXACT, RUINED])
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
    temperature = fitted(EXACT).temperature
    file = DATA / "n02_green" / "0.png"
    with closing(open_runner(open_bundle(EXACT), "onnxruntime").runner) as runner:
        logits_K = collect_answers([runner], list_labelled(DATA, runner.contract)).logits_NK[0][IMAGES]
        ((*top,),) = (row.top for row in predict(runner, [file], top_k=3))
    powers_K = np.exp(logits_K.astype(np.float64) / temperature)
    for answer in top:
        assert answer.probability == pytest.approx(powers_K[answer.index] / powers_K.sum())


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


def test_each_precision_has_its_own(here: Path) -> None:
    assert fitted(EXACT).temperature != pytest.approx(fitted(RUINED).temperature, rel=1e-4)


def copy_of(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_images_that_calibrated_int8_are_refused(here: Path) -> None:
    used = json.loads((RUINED / CALIBRATION).read_text())["files"][0]["file"]
    copy_of(here / "photos/train" / used, DATA / used.split("/")[0] / "innocent.jpg")
    before = content(RUINED)
    with pytest.raises(InputError, match=r"innocent\.jpg: calibrated engines/ruined; .*give other images"):
        fitted(RUINED)
    assert content(RUINED) == before
    fitted(EXACT)  # no image calibrated that one


def test_folders_that_share_an_image_are_refused(here: Path) -> None:
    other = here / "other"
    copy_of(here / "photos/val/n01_red/0.jpg", other / "a.jpg")
    fitted(EXACT, training_data=other)
    for i in range(2):
        copy_of(DATA / f"n03_blue/{i}.png", other / f"deep/{i}.png")
    before = content(EXACT)
    with pytest.raises(InputError, match=r"0\.png: also lies in `training_data` .*other, like 1 more of"):
        fitted(EXACT, training_data=other)
    assert content(EXACT) == before


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
        (lambda: shutil.copytree(RUINED, EXACT, dirs_exist_ok=True), "was replaced while its images ran"),
        (lambda: (EXACT / "sm89.plan").write_bytes(b"edited"), r"sm89\.plan: has 6 bytes"),
    ],
)
def test_a_bundle_that_changes_meanwhile_is_left_alone(here: Path, act: Callable[[], object], words: str) -> None:
    with (
        closing(open_runner(open_bundle(EXACT), "onnxruntime").runner) as runner,
        pytest.raises(ArtifactError, match=words),
    ):
        calibrate(EXACT, Meddling(runner, act), DATA)
    assert not (EXACT / CONFIDENCE).exists()
    assert load_manifest(EXACT)[0].contract.temperature == 1


def test_a_bundle_with_a_file_of_the_user_is_left_alone(here: Path) -> None:
    (EXACT / "notes.txt").write_text("mine")
    before = content(EXACT)
    with pytest.raises(InputError, match=r"notes\.txt"):
        fitted(EXACT)
    assert content(EXACT) == before


def test_contracts_that_disagree_are_refused(here: Path) -> None:
    manifest = load_manifest(EXACT)[0]
    model = load_onnx(EXACT / MODEL)
    set_contract(model, dataclasses.replace(manifest.contract, temperature=3.0))
    save_onnx(model, EXACT / MODEL)
    save_manifest(manifest, EXACT)
    with pytest.raises(ArtifactError, match="carry different contracts"):
        fitted(EXACT)


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
    assert f"temperature {found['temperature']:.4f}, fitted on {3 * IMAGES} images" in out
    assert "record of the temperature" in out


def test_images_of_the_fit_are_refused_by_evaluate(here: Path, command: Command) -> None:
    fitted(EXACT)
    run = partial(command, "evaluate", "--runtime", "onnxruntime", "--no-latency")
    on_its_images = ("data", "--engine", "exact")
    refused = run(*on_its_images)
    assert (refused.code, refused.out) == (1, "")
    assert "0.png: fitted the temperature of exact, like 119 more of these images; on these" in refused.err
    (engine,) = json.loads(run(*on_its_images, "--allow-calibration-images", "--json").out)["engines"]
    assert (engine["calibration_images"], engine["temperature_images"]) == (None, 3 * IMAGES)
    shown = run(*on_its_images, "--allow-calibration-images").out
    assert "exact: its temperature was fitted on 120 of these images" in " ".join(shown.split())
    assert "temperature" not in run("photos/val", "--engine", "exact").out  # other images
    # A bundle that was not fitted on them may be measured on them, and a model.onnx alone has no record.
    assert run("data", "--engine", "ruined").code == 0
    shutil.copy(EXACT / MODEL, "alone.onnx")
    alone = run("data", "--engine", "alone.onnx").out
    assert "not recorded whether its temperature was fitted" in " ".join(alone.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data", "photos/val"), 1, "6 usable images are too few"),
        (("--data", "data", "--evaluation-data", "data/n01_red"), 1, "also lies in --evaluation-data data/n01_red"),
        (("--data", "data", "--plot", "r.bmp"), 2, "--plot r.bmp: ends in none of .png, .svg, .pdf"),
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
