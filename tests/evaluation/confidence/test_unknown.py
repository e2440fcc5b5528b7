"""The rule for unknown answers, from the command that fits it to every command that shows it."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexnet_deploy.bundle.manifest import CONFIDENCE, MODEL, load_manifest
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx
from tests.helpers.command import Command

EXACT = Path("engines/exact")
FIT = ("calibrate-confidence", "exact", "--data", "data", "--runtime", "onnxruntime")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(command: Command, *arguments: str) -> list[dict[str, Any]]:
    ran = command("infer", "data", "--engine", "exact", "--runtime", "onnxruntime", *arguments, "--format", "jsonl")
    return [json.loads(line) for line in ran.out.splitlines()]


def test_the_rule_marks_what_it_was_asked_to_in_every_format(here: Path, command: Command) -> None:
    before = rows_of(command)
    assert {row["unknown"] for row in before} == {None}  # no rule yet
    found = json.loads(command(*FIT, "--outliers", "outliers", "--coverage", "80%", "--json").out)["rejection"]
    assert found["coverage"] == pytest.approx(0.8, abs=0.01)
    assert found["outliers"] == 20
    assert {row["score"] for row in found["scores"]} == {"max-probability", "max-logit", "energy"}
    rule = open_bundle(EXACT).contract.rejection
    assert rule is not None
    assert (rule.score, rule.threshold) == (found["score"], found["threshold"])
    assert contract_in(load_onnx(EXACT / MODEL), source="x") == open_bundle(EXACT).contract

    after = rows_of(command)
    marks = [row["unknown"] for row in after]
    assert sum(marks) == round(0.2 * len(marks))
    # The ranking stays, whatever the marks and the probabilities.
    assert [[a["index"] for a in row["top"]] for row in after] == [[a["index"] for a in row["top"]] for row in before]
    full = rows_of(command, "--outputs", "logits")
    assert [row["unknown"] for row in full] == marks

    infer = ("infer", "data", "--engine", "exact", "--runtime", "onnxruntime")
    assert command(*infer, "--format", "csv", "-o", "rows.csv").code == 0
    with Path("rows.csv").open(newline="") as stream:
        assert [row["unknown"] for row in csv.DictReader(stream)] == [str(mark).lower() for mark in marks]
    assert command(*infer, "--format", "parquet", "-o", "rows.parquet").code == 0
    assert pq.read_table("rows.parquet")["unknown"].to_pylist() == marks
    table = command(*infer).out.splitlines()
    assert ["unknown: " in line for line in table] == marks


def test_a_file_without_an_answer_has_no_mark(here: Path, command: Command) -> None:
    command(*FIT)
    (here / "data/n01_red/broken.png").write_bytes(b"no photo")
    (broken,) = (row for row in rows_of(command) if row["error"])
    assert broken["unknown"] is None


def test_ten_crops_have_no_marks_and_say_why(here: Path, command: Command) -> None:
    command(*FIT, "--coverage", "0.8")
    ran = command("infer", "data", "--engine", "exact", "--runtime", "onnxruntime", "--ten-crop", "--format", "jsonl")
    assert {json.loads(line)["unknown"] for line in ran.out.splitlines()} == {None}
    assert "rule was fitted on one crop" in " ".join(ran.err.split())


def test_everything_answered_leaves_no_rule_and_replaces_one(here: Path, command: Command) -> None:
    command(*FIT, "--coverage", "80%")
    found = json.loads(command(*FIT, "--coverage", "100%", "--json").out)
    assert found["rejection"] is None
    assert open_bundle(EXACT).contract.rejection is None
    assert {row["unknown"] for row in rows_of(command)} == {None}


def test_what_people_see(here: Path, command: Command) -> None:
    shown = " ".join(command(*FIT, "--outliers", "outliers", "--max-risk", "30%").out.split())
    for words in ("vector scaling", "changes: never stored", "AUROC", "Clopper-Pearson", "of the 20 outliers"):
        assert words in shown
    rule = open_bundle(EXACT).contract.rejection
    assert rule is not None
    assert rule.describe() in command("inspect", "exact").out


def test_evaluate_measures_the_rule(here: Path, command: Command) -> None:
    run = ("evaluate", "data", "--allow-calibration-images", "--engine", "exact@onnxruntime", "--no-latency")
    (bare,) = json.loads(command(*run, "--json").out)["engines"]
    assert (bare["selective"]["threshold"], bare["selective"]["coverage_percent"]) == (None, 100)
    assert bare["selective"]["accuracy_percent"] == bare["top1_percent"]
    assert bare["selective"]["auroc_percent"] is None
    fit = json.loads(command(*FIT, "--coverage", "0.8", "--outliers", "outliers", "--json").out)["rejection"]
    (engine,) = json.loads(command(*run, "--outliers", "outliers", "--json").out)["engines"]
    selective = engine["selective"]
    assert selective["coverage_percent"] == pytest.approx(100 * fit["coverage"])
    assert selective["accuracy_percent"] == pytest.approx(100 * (1 - fit["risk"]))
    (score,) = (row for row in fit["scores"] if row["score"] == fit["score"])
    assert selective["auroc_percent"] == pytest.approx(score["auroc_percent"])
    assert selective["fpr95_percent"] == pytest.approx(score["fpr95_percent"])
    assert selective["outliers_unknown_percent"] == pytest.approx(100 * (1 - fit["outliers_answered"]))
    assert selective["curve"][-1] == [100, pytest.approx(100 - engine["top1_percent"])]
    shown = " ".join(command(*run, "--outliers", "outliers").out.split())
    assert "20 outliers" in shown
    assert "AUROC" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--max-risk", "0.01%"), 1, "data: found no threshold that keeps the risk of an answer at or below 0.01 %"),
        (("--outliers", "empty"), 1, "empty: "),
        (("--outliers", "unreadable"), 1, "unreadable: none of its images can be read"),
        (("--outliers", "gone"), 1, "gone: "),
        (("--outliers", "data/n01_red"), 1, "also lies in --outliers data/n01_red"),
        (("--max-risk", "5%", "--coverage", "0.9"), 2, "--max-risk and --coverage exclude each other"),
        (("--max-risk", "500%"), 2, "is not a share, such as 5% or 0.05"),
        (("--coverage", "0"), 2, "--coverage 0: is not a share"),
        (("--coverage", "much"), 2, "is not a share"),
    ],
)
def test_refused_in_one_line_and_the_bundle_stays(
    here: Path, command: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    Path("empty").mkdir()
    Path("unreadable").mkdir()
    Path("unreadable/a.png").write_bytes(b"no photo")
    before = content(EXACT)
    ran = command(*FIT, *arguments)
    assert ran.code == code, ran.err
    assert words in " ".join(ran.err.replace("│", " ").split())
    assert content(EXACT) == before
    assert not (EXACT / CONFIDENCE).exists()


def test_data_are_no_outliers_for_evaluate(here: Path, command: Command) -> None:
    Image.open("data/n01_red/0.png").save("outliers/innocent.png")  # the same bytes: written by the same library
    ran = command("evaluate", "data", "--engine", "exact@onnxruntime", "--no-latency", "--outliers", "outliers")
    assert ran.code == 1
    assert "innocent.png: also lies in data" in ran.err
    assert ran.err.count("\n") == 1


def test_a_bundle_of_an_earlier_version_opens_unchanged(here: Path, command: Command) -> None:
    """Its contract has a temperature, and neither a calibration nor a rule; nor has its record."""
    raw = json.loads((EXACT / "bundle.json").read_text())
    for field in ("calibration", "rejection", "features"):
        assert raw["contract"].pop(field) is None
    raw["contract"]["temperature"] = 0.5
    raw["contract_sha256"] = hashlib.sha256(json.dumps(raw["contract"], sort_keys=True).encode()).hexdigest()
    (EXACT / "bundle.json").write_text(json.dumps(raw))
    contract = load_manifest(EXACT)[0].contract
    assert (contract.temperature, contract.calibration, contract.rejection) == (0.5, None, None)
    row = rows_of(command)[0]
    logits = np.array(rows_of(command, "--outputs", "logits")[0]["logits"], np.float64)
    powers = np.exp(logits / 0.5 - (logits / 0.5).max())
    assert row["top"][0]["probability"] == pytest.approx(powers.max() / powers.sum(), rel=1e-5)


def test_another_runtime_than_that_of_the_fit_is_said(here: Path, command: Command) -> None:
    """Its marks near the threshold may differ, as each runtime rounds in its own way."""
    command(*FIT)
    words = "the rule for unknown answers was fitted in ONNX Runtime"

    def said(runtime: str, engine: str = "exact") -> bool:
        ran = command("infer", "data/n01_red/0.png", "--engine", engine, "--runtime", runtime)
        assert ran.code == 0
        return words in " ".join(ran.err.split())

    assert said("openvino")
    assert not said("onnxruntime")
    assert not said("openvino", "ruined")  # has no rule


def test_inspect_says_how_good_it_is_on_images_that_the_fit_has_not_seen(here: Path, command: Command) -> None:
    found = json.loads(command(*FIT, "--json").out)
    (row,) = (each for each in found["methods"] if each["method"] == found["method"])
    shown = " ".join(command("inspect", "exact").out.split())
    assert f"has not seen (cross-validation): NLL {row['nll_nats']:.4f}, ECE {row['ece_percent']:.2f} %" in shown
    assert " -> " not in shown


@pytest.mark.parametrize("outputs", ["top", "logits"])
def test_without_a_format_the_suffix_of_the_file_says_it(here: Path, command: Command, outputs: str) -> None:
    run = ("infer", "data", "--engine", "exact", "--runtime", "onnxruntime", "--outputs", outputs, "-o")
    for name in ("rows.parquet", "rows.csv", "rows.jsonl", "rows.txt"):
        assert command(*run, name).code == 0
    assert pq.read_table("rows.parquet").num_rows == 120
    with Path("rows.csv").open(newline="") as stream:
        assert len([*csv.DictReader(stream)]) == 120
    assert len([json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]) == 120
    assert "{" not in Path("rows.txt").read_text()
