"""Everything that can be typed wrong: one clear line, an exit code, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL
from tests.helpers.command import Command


def _garbage_onnx(here: Path) -> None:
    Path("garbage.onnx").write_bytes(b"this is no protobuf \xff\xff")


def _onnx_with_unknown_operator(here: Path) -> None:
    model = onnx.load("engines/alexnet.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Frobnicate", "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    onnx.save(model, "unknown.onnx")


def _edit(name: str) -> Callable[[Path], None]:
    def edit(here: Path) -> None:
        path = here / "engines/alexnet-fp16" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return edit


def _truncate_model(here: Path) -> None:
    path = here / "engines/alexnet-fp16" / MODEL
    path.write_bytes(path.read_bytes()[:-1])


def _other_schema(here: Path) -> None:
    path = here / "engines/alexnet-fp16" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))


def _nothing(here: Path) -> None:
    Path("empty").mkdir()


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "message"),
    [
        (_nothing, ["infer", "nowhere"], 1, "nowhere: no such file or folder"),
        (_nothing, ["infer", "empty"], 1, "empty: holds no image"),
        (
            _nothing,
            ["infer", "photos", "--engine", "nope"],
            1,
            "nope: no such engine in engines/; there is alexnet-int8",
        ),
        (_nothing, ["infer", "photos", "--store", "empty"], 1, "build one: alexnet-deploy build-engine"),
        (_nothing, ["infer", "photos", "--top-k", 0], 2, "--top-k 0"),
        (
            _nothing,
            ["infer", "photos", "--format", "xml"],
            2,
            "'--format': Value error, 'xml' is not one of 'table', 'jsonl'",
        ),
        (_nothing, ["infer", "photos", "--format", "parquet"], 2, "give an --output file"),
        (_nothing, ["infer", "photos", "--runtime", "abacus"], 2, "'abacus' is not one of 'auto', 'tensorrt'"),
        (_nothing, ["infer", "photos", "--threads", 0], 2, "--threads 0"),
        (_nothing, ["infer", "photos", "--engines", "engines"], 2, "No such option: --engines"),
        (_nothing, ["infer", "photos", "--mean", "0,0"], 2, "'0,0' is not three numbers with commas (R,G,B)"),
        (_nothing, ["infer", "photos", "--mean", "0,0,0"], 2, "a bundle carries its own contract"),
        (_nothing, ["infer", "photos", "-o", "empty"], 2, "is not a plain file"),
        (_nothing, ["infer", "photos", "-o", "/proc/no/rows"], 1, "/proc/no/rows: cannot be written"),
        (_nothing, ["build-engine", "missing.onnx"], 1, "missing.onnx: no such ONNX file"),
        (_nothing, ["build-engine", "empty"], 1, "empty: is a folder"),
        (_garbage_onnx, ["build-engine", "garbage.onnx"], 1, "garbage.onnx: is not a valid ONNX model"),
        (_onnx_with_unknown_operator, ["build-engine", "unknown.onnx"], 1, "unknown.onnx"),
        (_nothing, ["build-engine", "--min-batch", 9, "--max-batch", 3], 2, "--min-batch 9 exceeds --max-batch 3"),
        (_nothing, ["build-engine", "--opt-batch", 9, "--max-batch", 3], 2, "--opt-batch 9 exceeds --max-batch 3"),
        (_nothing, ["build-engine", "--min-batch", 0], 2, "--min-batch 0"),
        (_nothing, ["build-engine", "--int8"], 2, "int8 needs --calibration-data"),
        (_nothing, ["build-engine", "--int8", "--fp8"], 2, "--int8 and --fp8 exclude each other"),
        (_nothing, ["build-engine", "--stability"], 2, "No such option: --stability"),
        (
            _nothing,
            ["build-engine", "--fp16", "--calibration-data", "photos"],
            2,
            "--calibration-data is for int8 and fp8",
        ),
        (_nothing, ["build-engine", "--int8", "--calibration-data", "empty"], 1, "empty: holds no image"),
        (
            _nothing,
            ["build-engine", "--int8", "--calibration-data", "photos", "--calibration-method", "guess"],
            2,
            "'guess' is not one of 'max', 'percentile', 'entropy', 'mse'",
        ),
        (
            _nothing,
            [
                *("build-engine", "--fp8", "--calibration-data", "photos/train", "--calibration-images", 6),
                *("--calibration-method", "entropy"),
            ],
            2,
            "--calibration-method entropy: does not fit fp8; choose one of max, percentile",
        ),
        (_nothing, ["build-engine", "--target", "sm90"], 2, "--target sm90"),
        (_nothing, ["build-engine", "--target", "gtx"], 2, "--target gtx: unknown"),
        (_nothing, ["build-engine", "--target", "sm75"], 1, "engines/alexnet.onnx: no plan for sm75"),
        (
            _nothing,
            [
                "build-engine",
                "--fp8",
                "--target",
                "sm80",
                "--calibration-data",
                "photos/train",
                "--calibration-images",
                6,
                "--calibration-method",
                "max",
            ],
            1,
            "engines/alexnet.onnx: sm80 has no FP8; choose sm89 or later",
        ),
        (_nothing, ["build-engine", "-o", "photos"], 1, "photos: holds train, so it is not just an engine bundle"),
        (_nothing, ["build-engine", "-o", "/proc/no/bundle"], 1, "cannot be written"),
        (_truncate_model, ["infer", "photos", "--engine", "alexnet-fp16"], 1, "the manifest says"),
        (_edit(MODEL), ["infer", "photos", "--engine", "alexnet-fp16"], 1, "SHA-256 differs"),
        (_edit("portable.plan"), ["inspect", "alexnet-fp16"], 1, "portable.plan: was edited, its SHA-256 differs"),
        (_other_schema, ["inspect", "alexnet-fp16"], 1, "schema 99, this version reads 1"),
        (_nothing, ["evaluate", "photos"], 1, "folder 'train' is no class of this model"),
        (_nothing, ["evaluate", "empty"], 1, "empty: holds no class folders"),
        (_nothing, ["profile", "--batch-sizes", 0], 2, "--batch-sizes 0"),
        (_nothing, ["profile", "--store", "empty"], 1, "empty/ holds no engine"),
        (_nothing, ["export", "--weights", "none.safetensors"], 1, "none.safetensors: no such checkpoint"),
        (_nothing, ["summary", "lenet"], 2, "ARCHITECTURE lenet: unknown"),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Command, here: Path, prepare: Callable[[Path], None], arguments: list[object], code: int, message: str
) -> None:
    prepare(here)
    before = sorted(Path().rglob("*"))
    ran = command(*arguments)
    assert ran.code == code, ran.err
    assert message in ran.error
    assert "Traceback" not in ran.err
    assert sorted(Path().rglob("*")) == before, "a failed command left something behind"
