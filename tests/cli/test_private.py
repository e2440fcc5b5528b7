"""What a pipeline leaves behind can be given away: no file holds the place, the user or the host it was made on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import load_manifest, save_manifest
from alexnet_deploy.files import shareable
from tests.helpers.command import Command
from tests.helpers.models.bundles import make_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"), photo_folder)


def test_no_artifact_of_a_pipeline_holds_the_absolute_paths_that_were_typed(
    command: Command, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(here / "photos", elsewhere / "my photos")
    shutil.rmtree(here / "engines/ruined")
    manifest = load_manifest(here / "engines/exact")[0]
    warm = dataclasses.replace(manifest.contract, temperature=2.0)
    save_manifest(dataclasses.replace(manifest, contract=warm), here / "engines/exact")
    new = here / "engines/new"
    calibration = ("--calibration-data", elsewhere / "my photos/train", "--calibration-images", 6)
    for line in (
        ("build-engine", here / "colours.onnx", "--int8", *calibration, "--target", "sm89", "-o", new),
        (
            *("report", "new", "--data", elsewhere / "my photos/val", "-o", here / "report.html"),
            *("--store", here / "engines", "--batch-sizes", 1, "--duration", "1ms"),
            *("--without", "stages", "--without", "layers"),
        ),
    ):
        ran = command(*line)
        assert ran.code in (0, 3), ran.err
    made = [*new.iterdir(), *here.glob("report.*")]
    assert {file.name for file in made} == {
        *("bundle.json", "model.onnx", "sm89.plan", "calibration.json"),
        *("report.html", "report.json"),
    }
    for file in made:
        content = file.read_bytes()
        for place in (here, elsewhere, Path.home()):
            assert str(place).encode() not in content, file.name
    shown = json.loads((here / "report.json").read_text())["command"]
    assert shown[:5] == ["alexnet-deploy", "report", "new", "--data", ".../val"]
    assert shown[6:9] == ["report.html", "--store", "engines"]


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("{here}/a b/c.onnx", "a b/c.onnx"),
        ("{here}", "."),
        ("--data={here}/photos", "--data=photos"),
        ("/home/alice/photos of mine", ".../photos of mine"),
        (
            "the temperature 2 of /home/alice/m.onnx is left out: fit one",
            "the temperature 2 of .../m.onnx is left out: fit one",
        ),
        ("{here}/m.onnx: refused; see {here}/a/log", "m.onnx: refused; see a/log"),
        ("relative/path and n/a and 3 images/s", "relative/path and n/a and 3 images/s"),
        ("https://example.org/a/b.pth", "https://example.org/a/b.pth"),
        ("~/.cache/x/y", "~/.cache/x/y"),
        ("--target", "--target"),
    ],
)
def test_absolute_paths_become_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, shared: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shareable(text.format(here=tmp_path)) == shared


def test_the_notes_of_a_bundle_hold_no_absolute_path(here: Path) -> None:
    bundle = here / "engines/exact"
    note = f"the temperature 2 of {here / 'x/colours.onnx'} is left out"
    save_manifest(dataclasses.replace(load_manifest(bundle)[0], notes=(note,)), bundle)
    assert load_manifest(bundle)[0].notes == ("the temperature 2 of x/colours.onnx is left out",)
