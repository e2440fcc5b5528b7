"""The command line as a user meets it: an empty folder, three commands, and what they print and write."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from alexnet_deploy.bundle.manifest import load_manifest, save_manifest
from alexnet_deploy.cli.output.tables import add_row, table
from tests.helpers.command import Command
from tests.helpers.models.foreign_models import foreign_classifier


def test_export_reports_parity_and_contract(command: Command, here: Path) -> None:
    ran = command("export", "--weights", "tiny.safetensors", "-o", "again.onnx", "--parity-images", "photos", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["onnx"] == "again.onnx"
    assert report["bytes"] == Path("again.onnx").stat().st_size
    assert report["parity"]["images"] == 16
    assert report["parity"]["top1_agreement_percent"] == 100


@pytest.mark.parametrize(
    ("flags", "name", "wanted"),
    [
        ((), "alexnet-fp32", {"fp32"}),
        (("--fp16",), "alexnet-fp16", {"fp16"}),
        (("--int8", "--fp16"), "alexnet-int8-fp16", {"int8"}),
        (("--fp8",), "alexnet-fp8", {"fp8", "fp32"}),
    ],
)
def test_build_engine_proves_each_precision(
    command: Command, here: Path, flags: tuple[str, ...], name: str, wanted: set[str]
) -> None:
    calibration = (
        ("--calibration-data", "photos/train", "--calibration-images", 4) if name[8:11] in ("int", "fp8") else ()
    )
    ran = command("build-engine", *flags, *calibration, "--target", "sm89", "--max-batch", 4, "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["bundle"] == f"engines/{name}"
    layers = report["achieved"]["sm89.plan"]
    assert len(layers) == 8
    assert {layer["got"] for layer in layers} == wanted
    assert all(layer["asked"] == layer["got"] for layer in layers)
    assert report["batch"] == {"min": 1, "opt": 4, "max": 4}


def test_int8_record_names_images_method_and_ranges(here: Path) -> None:
    record = json.loads(Path("engines/alexnet-int8/calibration.json").read_text())
    assert record["method"] == "entropy"
    assert len(record["files"]) == 6
    # Three classes in turn, twice: balanced.
    assert [file["file"].split("/")[0] for file in record["files"]] == ["n01_red", "n02_green", "n03_blue"] * 2
    assert len(record["threshold_by_tensor"]) == 8
    assert str(here) not in json.dumps(record)


def test_a_second_calibration_comes_from_the_cache_unless_told_not_to(command: Command, here: Path) -> None:
    build = ("build-engine", "--int8", "--calibration-data", "photos/val", "--calibration-images", 6)
    assert "come from the cache" not in command(*build, "-o", "first").out
    assert "come from the cache" in command(*build, "-o", "second").out
    assert "come from the cache" not in command(*build, "-o", "third", "--no-calibration-cache").out
    assert len({Path(name, "model.onnx").read_bytes() for name in ("first", "second", "third")}) == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "table"])
def test_infer_formats_and_exit_code_3(command: Command, here: Path, kind: str) -> None:
    Path("photos/val/broken.jpg").write_bytes(b"\xff\xd8 not really")
    Image.new("L", (300, 200), 128).save("photos/val/grey.png")
    ran = command("infer", "photos/val", "--format", kind, "-o", "rows", "--top-k", 9, "--engine", "alexnet-int8")
    assert ran.code == 3
    assert "1 of 8 inputs failed" in ran.err
    if kind == "jsonl":
        rows = [json.loads(line) for line in Path("rows").read_text().splitlines()]
        assert all(set(row) == {"file", "top", "error", "unknown"} for row in rows)
        assert [row["file"] for row in rows if row["error"]] == ["photos/val/broken.jpg"]
        good = next(row for row in rows if not row["error"])
        assert {answer["label"] for answer in good["top"]} == {"red", "green", "blue"}
        assert sum(answer["probability"] for answer in good["top"]) == pytest.approx(1)
    elif kind == "csv":
        header, *rows = csv.reader(Path("rows").read_text().splitlines())
        assert header[-4:] == ["label_3", "index_3", "probability_3", "unknown"]  # as many as there are classes
        assert len(rows) == 8
    elif kind == "parquet":
        table = pq.read_table("rows")
        assert table.column_names == ["file", "top", "error", "unknown"]
        assert table["error"].null_count == 7
    else:
        assert len(Path("rows").read_text().splitlines()) == 8


def test_runtimes_agree_and_a_bare_onnx_runs(command: Command, here: Path) -> None:
    answers = []
    for engine, runtime in (
        ("engines/alexnet.onnx", "openvino"),
        ("engines/alexnet.onnx", "onnxruntime"),
        ("alexnet-fp16", "onnxruntime"),
    ):
        ran = command("infer", "photos/val", "--engine", engine, "--runtime", runtime, "--format", "jsonl")
        assert ran.code == 0
        answers.append([json.loads(line)["top"][0]["index"] for line in ran.out.splitlines()])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("gpu", [False, True])
def test_one_line_says_what_runs_and_a_gpu_that_does_not_brings_the_reasons(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr("alexnet_deploy.runtime.select.has_nvidia_gpu", lambda: gpu)
    *reasons, running = command("infer", "photos/val", "--engine", "alexnet-fp16").err.splitlines()
    assert running.startswith("running alexnet-fp16 (fp16) with OpenVINO")
    unused = [reason.split(": ")[:2] for reason in reasons]
    assert unused == ([["not used", "tensorrt"], ["not used", "onnxruntime-cuda"]] if gpu else [])


def test_a_bare_fp8_onnx_runs_as_in_its_bundle(command: Command, here: Path) -> None:
    """ONNX Runtime computes an FP8 Gemm wrongly where it optimises as for a float model."""
    assert command("build-engine", "--fp8", "--calibration-data", "photos/train", "--calibration-images", 4).code == 0
    answers = []
    for engine in ("alexnet-fp8", "engines/alexnet-fp8/model.onnx"):
        ran = command("infer", "photos/val", "--engine", engine, "--runtime", "onnxruntime", "--format", "jsonl")
        assert "(fp8)" in ran.err
        answers.append(ran.out)
    assert answers[0] == answers[1]


def test_engines_and_inspect(command: Command, here: Path) -> None:
    rows = json.loads(command("engines", "--json").out)
    assert [(row["engine"], row["precision"]) for row in rows] == [("alexnet-int8", "int8"), ("alexnet-fp16", "fp16")]
    shown = command("inspect", "alexnet-fp16")
    assert shown.code == 0
    assert "features.0/Conv" in shown.out
    assert "8 layers: 8 fp16" in shown.out
    shutil.rmtree("engines")
    assert "holds no engine" in command("engines").out


def test_notes_and_missing_labels_name_flags(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "engines/alexnet-fp16"
    manifest = replace(load_manifest(folder)[0], notes=("no plan: try `runtime` openvino",))
    save_manifest(manifest, folder)
    assert "no plan: try --runtime openvino" in command("inspect", "alexnet-fp16").out
    for module in ("evaluation.comparison.preprocessing", "sensitivity.layers"):
        unlabelled = f"alexnet_deploy.{module}.targets_if_labelled"
        monkeypatch.setattr(unlabelled, lambda *_: (None, "`data` holds no class folders"))
    reason = "--data holds no class folders"
    parity = ("preprocessing-parity", "alexnet-fp16", "--data", "photos/val", "--images", 2)
    few = ("--images", 2, "--calibration-images", 2)
    for line in (parity, ("diagnose", "--data", "photos/val", *few)):
        assert f"no accuracy: {reason}" in command(*line).out
        assert json.loads(command(*line, "--json").out)["unlabelled"] == reason


def test_evaluate_and_profile(command: Command, here: Path) -> None:
    ran = command("evaluate", "photos/val", "--engine", "alexnet-fp16", "--json")
    report = json.loads(ran.out)
    (row,) = report["engines"]
    assert (row["engine"], report["images"], report["unreadable"]) == ("alexnet-fp16", 6, [])
    assert 0 <= row["top1_percent"] <= row["top5_percent"] == 100  # three classes: all are among the first five
    ran = command("profile", "--duration", "10ms", "--json")
    rows = json.loads(ran.out)
    assert [row["engine"] for row in rows] == ["alexnet-int8", "alexnet-fp16"]
    batches = [batch for row in rows for batch in row["batches"]]
    assert all(b["iterations"] >= 10 and b["min_ms"] <= b["median_ms"] <= b["max_ms"] for b in batches)


def test_foreign_onnx_through_build_and_infer(command: Command, here: Path) -> None:
    foreign_classifier(Path("foreign.onnx"), opset=13, batch=2, softmax=True)
    said = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    refused = command("build-engine", "foreign.onnx", "--fp16")
    assert refused.code == 2
    assert "give --mean and --std on the 0..1 scale" in refused.error
    assert command("build-engine", "foreign.onnx", "--fp16", *said).code == 0
    assert command("infer", "photos/val", "--engine", "foreign-fp16").code == 0
    ran = command("infer", "photos/val", "--engine", "foreign.onnx", *said, "--format", "jsonl")
    assert ran.code == 0
    assert json.loads(ran.out.splitlines()[0])["top"][0]["label"] in ("0", "1", "2", "3", "4")


def test_summary_prints_the_paper_network(command: Command) -> None:
    ran = command("summary", "alexnet-2012")
    assert ran.code == 0
    assert "60,965,224" in ran.out
    assert "[1, 96, 55, 55]" in ran.out


def test_a_narrow_terminal_wraps_names_and_cuts_no_number() -> None:
    grid = table("engine", ">top-1 %", ">MiB", "runner")
    add_row(grid, ("alexnet-int8", "93.33\n(84.07..97.38)", "5.5", "OpenVINO 2026.4.1 on CPU (int8)"))
    console = Console(width=50, file=io.StringIO())
    console.print(grid)
    assert isinstance(console.file, io.StringIO)
    assert "(84.07..97.38)" in console.file.getvalue()
