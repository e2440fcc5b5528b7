"""The rule of decoding travels with an engine, can be overridden, and is said where it matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import load_manifest
from alexnet_deploy.contract import Decoding
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.inference.journal import open_journal
from alexnet_deploy.inference.prediction import Prediction
from alexnet_deploy.inference.run_settings import settings_of
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.precision.calibration.record import read_record
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle


@pytest.fixture
def place(here: Path) -> Path:
    """``here`` with ``reduced.onnx``, whose contract decodes large JPEGs at a reduced size, and large photos."""
    with_rule(here / "colours.onnx", here / "reduced.onnx", "reduced-2x")
    rng = np.random.default_rng(0)
    for folder in sorted((here / "photos/val").iterdir()):
        for name in ("large-1.jpg", "large-2.jpg"):
            first = next(folder.glob("*.png"), None) or next(folder.iterdir())
            mean = np.asarray(Image.open(first).convert("RGB")).mean(axis=(0, 1))
            noise = np.clip(rng.normal(mean, 60, (301, 403, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noise).save(folder / name)
    return here


def with_rule(onnx: Path, out: Path, rule: Decoding) -> None:
    model = load_onnx(onnx)
    contract = contract_in(model, source=str(onnx))
    assert contract is not None
    set_contract(model, contract.decoded(rule))
    save_onnx(model, out)


def rows(command: Command, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    found = command("infer", "photos/val", "--format", "jsonl", "--runtime", "onnxruntime", *arguments)
    assert found.code == 0, found.err
    return [json.loads(line) for line in found.out.splitlines()], found.err


def test_a_command_line_overrides_the_rule_of_the_contract(place: Path, command: Command) -> None:
    by_rule, _ = rows(command, "--engine", "reduced.onnx")
    in_full, said = rows(command, "--engine", "reduced.onnx", "--full-decode")
    before, _ = rows(command, "--engine", "colours.onnx")
    assert in_full == before != by_rule
    assert "decoded" not in said  # nothing was calibrated


def test_an_engine_calibrated_by_the_other_rule_says_so(place: Path, command: Command) -> None:
    build_bundle(place / "reduced.onnx", place / "engines/new", "int8", place / "photos/train", calibration_images=6)
    assert read_record(place / "engines/new/calibration.json").preprocessing.decoding == "reduced-2x"
    _, quiet = rows(command, "--engine", "new")
    _, said = rows(command, "--engine", "new", "--full-decode")
    note = "new: was calibrated on photos decoded as reduced-2x, and gets them decoded in full"
    assert note in said
    assert note not in quiet
    assert "ruined: was" not in rows(command, "--engine", "ruined", "--full-decode")[1]  # calibrated in full


def test_an_engine_can_be_built_for_full_decoding(place: Path, command: Command) -> None:
    run = command(
        "build-engine", "reduced.onnx", "--int8", "--calibration-data", "photos/val", "--calibration-images", "6",
        "--full-decode", "-o", "engines/in-full", "--target", "sm89",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert load_manifest(place / "engines/in-full")[0].contract.preprocessing.decoding == "full"
    record = read_record(place / "engines/in-full/calibration.json")
    assert record.preprocessing.decoding == "full"
    settings = BuildSettings(calibration_images=6, targets=("sm89",))
    old = build_engine(
        place / "colours.onnx",
        place / "engines/old",
        precision="int8",
        calibration_data="photos/val",
        settings=settings,
    )
    assert read_record(old / "calibration.json").largest_by_tensor == record.largest_by_tensor
    found, said = rows(command, "--engine", "in-full")  # verified against the contract in its ONNX
    assert (found, "decoded" in said) == (rows(command, "--engine", "old")[0], False)


def test_engines_of_both_rules_are_compared_in_full_or_not_at_all(place: Path, command: Command) -> None:
    compared = ("evaluate", "photos/val", "--engine", "colours.onnx", "--engine", "reduced.onnx", "--no-latency")
    refused = command(*compared)
    assert refused.code == 2
    assert "preprocess differently (decoding: full and reduced-2x)" in refused.err
    assert "or all with --full-decode" in refused.err
    found = command(*compared, "--full-decode", "--json")
    assert found.code == 0, found.err
    first, second = json.loads(found.out)["engines"]
    assert first["confidence"] == second["confidence"]
    assert first["top1_percent"] == second["top1_percent"]


def test_parity_measures_every_rule_against_that_of_the_engine(place: Path, command: Command) -> None:
    run = ("preprocessing-parity", "reduced.onnx", "--data", "photos/val", "--runtime", "onnxruntime", "--json")
    found = json.loads(command(*run).out)["variants"]
    assert [row["name"] for row in found[:3]] == ["full decode", "reduced-3x", "reduced-4x"]
    assert 0 < found[0]["mean_abs_pixel"] < found[0]["max_pixel"] < 60
    found = json.loads(command(*run, "--full-decode").out)["variants"]
    assert [row["name"] for row in found[:3]] == ["reduced-2x", "reduced-3x", "reduced-4x"]
    table = command(*run[:-1]).out
    assert "large JPEGs decoded to 16 or more" in table


def test_a_run_goes_on_by_the_rule_that_began_it(place: Path) -> None:
    contract = contract_in(load_onnx(place / "reduced.onnx"), source="reduced.onnx")
    assert contract is not None
    reduced, full = (settings_of("the same model", c) for c in (contract, contract.decoded("full")))

    def resume(began: dict[str, str], now: dict[str, str]) -> None:
        with open_journal(place / "a.jsonl", began, overwrite=True) as journal:
            journal.append(Prediction("a.jpg", (), "no such file"))
            journal.flush()
        with open_journal(place / "a.jsonl", now, resume=True):
            pass

    without = {key: value for key, value in full.items() if key != "preprocessing.decoding"}
    resume(without, full)  # a run of a version that had no rules decoded in full
    for began, now in ((without, reduced), (full, reduced), (reduced, full)):
        with pytest.raises(UsageError, match=r"begun with preprocessing\.decoding (full|reduced-2x), this run has"):
            resume(began, now)


def test_the_python_interface_has_the_same_switch(place: Path) -> None:
    photo = next((place / "photos/val").rglob("large-1.jpg"))
    with open_engine(place / "reduced.onnx", runtime="onnxruntime", full_decode=True) as engine:
        pre = engine.contract.preprocessing
        with engine.fork() as other:
            assert other.contract.preprocessing == pre
        (prediction,) = engine.predict(photo)
        assert pre.decoding == "full"
        again = engine(load_pixels(photo, pre)[None])
    exponents = np.exp(again[0] - again[0].max())
    assert prediction.top[0].probability == pytest.approx(float(exponents.max() / exponents.sum()), abs=1e-6)
