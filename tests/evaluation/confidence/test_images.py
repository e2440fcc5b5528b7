"""Which files a fit uses: one of each content, what cannot be read is said, and what chose the rule is not measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.evaluation.confidence.record import read_confidence
from tests.evaluation.confidence.conftest import IMAGES
from tests.helpers.command import Command, RunResult

EXACT = Path("engines/exact")
FIT = ("calibrate-confidence", "exact", "--data", "data", "--runtime", "onnxruntime")


def copy_all(folder: Path, times: int) -> None:
    for file in [*folder.rglob("*.png")]:
        for i in range(times):
            shutil.copyfile(file, file.with_name(f"{file.stem}-copy{i}.png"))


def test_copies_are_no_evidence(here: Path, command: Command) -> None:
    """Eight of each image fit what one of each fits, and promise no more."""
    arguments = (*FIT, "--outliers", "outliers", "--max-risk", "40%", "--json")
    once = json.loads(command(*arguments).out)
    copy_all(here / "data", 7)
    copy_all(here / "outliers", 3)
    (refused,) = (command(*FIT, "--max-risk", "0.5%"),)
    assert (refused.code, "on these 120 images" in refused.err) == (1, True)
    again = json.loads(command(*arguments).out)
    assert (again.pop("copies"), once.pop("copies")) == (7 * 3 * IMAGES + 3 * 20, 0)
    assert again.pop("created") != once.pop("created")
    assert sorted(again) == sorted(once)
    for key in ("images", "rejection", "temperature", "methods"):
        assert again[key] == once[key]
    shown = " ".join(command(*FIT).out.split())
    assert f"{7 * 3 * IMAGES} files left out: copies of other images (same content), of which one counts" in shown


def test_a_content_of_two_classes_has_none(here: Path, command: Command) -> None:
    for name in ("n01_red", "n02_green"):
        Image.new("RGB", (8, 8), (200, 200, 0)).save(here / "data" / name / "both.png")
    found = json.loads(command(*FIT, "--json").out)
    assert (found["images"], found["copies"]) == (3 * IMAGES, 2)


def test_files_that_cannot_be_read_are_said(here: Path, command: Command) -> None:
    (here / "data/n01_red/junk.png").write_bytes(b"no photo")
    (here / "outliers/junk.png").write_bytes(b"no photo either")

    def said(ran: RunResult) -> None:
        assert ran.code == 3
        assert "2 of 142 images cannot be read" in " ".join(ran.err.split())

    ran = command(*FIT, "--outliers", "outliers", "--json")
    said(ran)
    assert [Path(line.split(":")[0]).parent.name for line in json.loads(ran.out)["unreadable"]] == [
        "n01_red",
        "outliers",
    ]
    ran = command(*FIT, "--outliers", "outliers")
    said(ran)
    assert "2 images left out: " in " ".join(ran.out.split())
    assert open_bundle(EXACT).contract.rejection is not None  # it is stored all the same
    ran = command("build-engine", "colours.onnx", "--confidence-data", "data", "-o", "engines/mine")
    assert (ran.code, "1 of 121 images cannot be read" in " ".join(ran.err.split())) == (3, True)


def test_outliers_of_the_fit_are_recorded_and_not_measured(here: Path, command: Command) -> None:
    found = json.loads(command(*FIT, "--outliers", "outliers", "--json").out)
    assert "outlier_sha256" not in found
    record = read_confidence(EXACT, open_bundle(EXACT).contract)
    assert record is not None
    assert len(set(record.outlier_sha256)) == 20
    run = ("evaluate", "photos/val", "--engine", "exact@onnxruntime", "--no-latency", "--outliers")
    ran = command(*run, "outliers")
    assert ran.code == 1
    assert "is an outlier that chose the rule for unknown answers of exact, along with 19 more" in ran.err
    assert "--allow-calibration-images" in ran.err
    assert command(*run, "outliers", "--allow-calibration-images").code == 0
    other = here / "other"
    other.mkdir()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(other / "a.png")
    assert command(*run, "other").code == 0


@pytest.mark.parametrize("more", [(), ("--allow-calibration-images",)])
def test_images_of_a_class_are_no_outliers(here: Path, command: Command, more: tuple[str, ...]) -> None:
    command(*FIT)
    ran = command("evaluate", "photos/val", "--engine", "exact@onnxruntime", "--outliers", "data", *more)
    assert ran.code == 1
    assert "fitted the probabilities of exact as an image of a class, along with 119 more" in ran.err


def test_a_record_without_its_outliers_opens(here: Path, command: Command) -> None:
    command(*FIT, "--outliers", "outliers")
    contract = open_bundle(EXACT).contract
    raw = json.loads((EXACT / CONFIDENCE).read_text())
    assert len(raw.pop("outlier_sha256")) == 20
    copied = here / "copied"
    copied.mkdir()
    (copied / CONFIDENCE).write_text(json.dumps(raw))
    record = read_confidence(copied, contract)
    assert record is not None
    assert record.outlier_sha256 == ()
