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


FP8 = "build-engine --fp8 --calibration-data photos/train --calibration-images 6"


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        ("infer nowhere", 1, "nowhere: no such file or folder"),
        ("infer empty", 1, "empty: holds no image"),
        ("infer photos --engine nope", 1, "nope: no such engine in engines/; it contains alexnet-int8"),
        ("infer photos --store empty", 1, "build one: alexnet-deploy build-engine"),
        ("infer photos --top-k 0", 2, "--top-k 0"),
        ("infer photos --format xml", 2, "'--format': 'xml' is not one of 'table', 'jsonl'"),
        ("infer photos --format parquet", 2, "give an --output file"),
        ("infer photos --runtime abacus", 2, "'--runtime': 'abacus' is not one of 'auto', 'tensorrt'"),
        ("infer photos --threads 0", 2, "--threads 0"),
        ("infer photos --engines engines", 2, "No such option: --engines"),
        ("infer photos --mean 0,0", 2, "'0,0' is not one number, or three with commas (R,G,B)"),
        ("infer photos --mean 0,0,0", 2, "for an ONNX of another tool, and"),
        ("infer photos --std 0.2,0.2,0", 2, "--std (0.2, 0.2, 0.0): must be above 0"),
        ("infer photos -o empty", 2, "is not a plain file"),
        ("infer photos -o /proc/no/rows", 1, "/proc/no/rows: cannot be written"),
        ("build-engine missing.onnx", 1, "missing.onnx: no such ONNX file"),
        ("build-engine empty", 1, "empty: is a folder"),
        ("build-engine --min-batch 9 --max-batch 3", 2, "--min-batch 9 exceeds --max-batch 3"),
        ("build-engine --opt-batch 9 --max-batch 3", 2, "--opt-batch 9 exceeds --max-batch 3"),
        ("build-engine --min-batch 0", 2, "--min-batch 0"),
        ("build-engine --int8", 2, "int8 needs --calibration-data"),
        ("build-engine --int8 --fp8", 2, "--int8 and --fp8 cannot be combined"),
        ("build-engine --int4 --int8", 2, "--int8 and --int4 cannot be combined; choose one"),
        ("build-engine --int4 --int8-weights", 2, "--int8-weights and --int4 cannot be combined; choose one"),
        ("build-engine --int4 --calibration-method gptq", 2, "--calibration-method gptq: needs --calibration-data"),
        ("diagnose --data photos --int4 --fp8", 2, "--fp8 and --int4 cannot be combined; choose one"),
        ("build-engine --stability", 2, "No such option: --stability"),
        ("build-engine --fp16 --calibration-data photos", 2, "--calibration-data is for quantised precisions"),
        ("build-engine --int8 --calibration-data empty", 1, "empty: holds no image"),
        (
            "build-engine --int8 --calibration-data photos/val --output fewer",
            1,
            "photos/val: holds 6 usable images, --calibration-images requires 512",
        ),
        (
            "build-engine --int8 --calibration-data photos --calibration-method guess",
            2,
            "'guess' is not one of 'max', 'percentile', 'entropy', 'mse'",
        ),
        ("build-engine --calibration-images 0", 2, "--calibration-images 0: must be 1 or more"),
        ("diagnose --data photos --images -1", 2, "--images -1: must be 1 or more"),
        ("diagnose none.onnx --data photos", 1, "none.onnx: no such ONNX file; give your own as ONNX, or make ours"),
        (
            "calibration-stability gone.onnx --calibration-data photos --engine alexnet-int8",
            1,
            "give the one that alexnet-int8 was built from as ONNX",
        ),
        ("calibration-stability --calibration-data photos --seeds 1", 2, "--seeds 1: must be 2 or more"),
        (
            f"{FP8} --calibration-method entropy",
            2,
            "--calibration-method entropy: does not fit fp8; choose one of max, percentile",
        ),
        ("build-engine --fp16 --target sm90", 2, "--target sm90"),
        ("build-engine --target gtx", 2, "--target gtx: unknown"),
        ("build-engine --target sm75", 1, "engines/alexnet.onnx: no plan for sm75"),
        (f"{FP8} --target sm80", 1, "engines/alexnet.onnx: sm80 has no FP8; choose sm89 or later"),
        ("build-engine -o photos", 1, "photos: holds train, so it is not just an engine bundle"),
        ("build-engine -o /proc/no/bundle", 1, "cannot be written"),
        ("evaluate photos", 1, "folder 'train' is not a class of alexnet-"),
        ("evaluate empty", 1, "empty: holds no class folders"),
        ("profile --batch-sizes 0", 2, "--batch-sizes 0"),
        ("profile --store empty", 1, "empty/ holds no engine"),
        ("export --weights none.safetensors", 1, "none.safetensors: no such file"),
        ("export --arch lenet", 2, "'--arch': 'lenet' is not one of 'alexnet', 'alexnet-2012'"),
        ("summary lenet", 2, "MODEL lenet: unknown"),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, message: str
) -> None:
    monkeypatch.chdir(workplace)  # nothing is left behind in it
    refused(command, typed, code, message)


@pytest.mark.parametrize(
    ("damage", "typed", "code", "message"),
    [
        (_garbage_onnx, "build-engine garbage.onnx", 1, "garbage.onnx: is not a valid ONNX model"),
        (_onnx_with_unknown_operator, "build-engine unknown.onnx", 1, "unknown.onnx"),
        (_truncate_model, "infer photos --engine alexnet-fp16", 1, "the manifest records"),
        (_edit(MODEL), "infer photos --engine alexnet-fp16", 1, "SHA-256 differs"),
        (_edit("portable.plan"), "inspect alexnet-fp16", 1, "portable.plan: was edited: its SHA-256 differs"),
        (_other_schema, "inspect alexnet-fp16", 1, "schema 99, but this version reads schema 1"),
    ],
)
def test_a_damaged_file_is_one_clear_line(
    command: Command, here: Path, damage: Callable[[Path], None], typed: str, code: int, message: str
) -> None:
    damage(here)
    refused(command, typed, code, message)


def refused(command: Command, typed: str, code: int, message: str) -> None:
    before = files()
    ran = command(*typed.split())
    assert ran.code == code, ran.err
    assert message in ran.error
    assert "Traceback" not in ran.err
    assert files() == before, "a failed command left something behind, or changed a file"


def files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in Path().rglob("*")}
