"""The command line as a user meets it: an empty folder, three commands, and everything that can be typed wrong."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL
from alexnet_deploy.cli import main
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.repository import ROOT


class RunResult(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


Run = Callable[..., RunResult]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*arguments: object) -> RunResult:
        monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return RunResult(code, out.decode(), err.decode())

    return call


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint, photo_folder: Path) -> Path:
    """A folder with a checkpoint, photos and a store that holds an ONNX, an FP16 and an INT8 bundle."""
    folder = tmp_path_factory.mktemp("workplace")
    save_checkpoint(tiny_checkpoint, folder / "tiny.safetensors")
    shutil.copytree(photo_folder, folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (
            ["export", "--weights", "tiny.safetensors"],
            ["build-engine", "--fp16"],
            ["build-engine", "--int8", "--calibration-data", "photos/train", "--calibration-images", "6"],
        ):
            patch.setattr(sys, "argv", ["alexnet-deploy", *arguments])
            main_to_the_end()
    return folder


def main_to_the_end() -> None:
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace, as the current folder."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_commands_in_an_empty_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but defaults, the shipped checkpoint becomes an engine that knows a church."""
    monkeypatch.chdir(tmp_path)
    assert run("export").code == 0
    assert run("build-engine", "--fp16").code == 0
    assert (tmp_path / "engines/alexnet-fp16" / MANIFEST).is_file()
    samples = ROOT / "samples"
    answered = run("infer", samples, "--format", "jsonl")
    assert answered.code == 0
    rows = [json.loads(line) for line in answered.out.splitlines()]
    assert len(rows) == len([f for f in samples.iterdir() if f.suffix != ".md"])
    best = {Path(row["file"]).name: row["top"][0]["label"] for row in rows}
    assert best["church_reims.jpg"] == "church"
    assert "alexnet-fp16 (fp16) with OpenVINO" in answered.err


def test_export_reports_parity_and_contract(run: Run, here: Path) -> None:
    ran = run("export", "--weights", "tiny.safetensors", "-o", "again.onnx", "--parity-images", "photos", "--json")
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
    run: Run, here: Path, flags: tuple[str, ...], name: str, wanted: set[str]
) -> None:
    calibration = (
        ("--calibration-data", "photos/train", "--calibration-images", 4) if name[8:11] in ("int", "fp8") else ()
    )
    ran = run("build-engine", *flags, *calibration, "--target", "sm89", "--max-batch", 4, "--json")
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


def test_fewer_calibration_images_than_asked_is_refused(run: Run, here: Path) -> None:
    ran = run("build-engine", "--int8", "--calibration-data", "photos/val", "--output", "fewer")
    assert ran.code == 1
    assert "photos/val: holds 6 usable images, --calibration-images asks for 512" in ran.error
    assert not Path("fewer").exists()


def test_a_second_calibration_comes_from_the_cache_unless_told_not_to(run: Run, here: Path) -> None:
    build = ("build-engine", "--int8", "--calibration-data", "photos/val", "--calibration-images", 6)
    assert "come from the cache" not in run(*build, "-o", "first").out
    assert "come from the cache" in run(*build, "-o", "second").out
    assert "come from the cache" not in run(*build, "-o", "third", "--no-calibration-cache").out
    assert len({Path(name, "model.onnx").read_bytes() for name in ("first", "second", "third")}) == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "table"])
def test_infer_formats_and_exit_code_3(run: Run, here: Path, kind: str) -> None:
    Path("photos/val/broken.jpg").write_bytes(b"\xff\xd8 not really")
    Image.new("L", (300, 200), 128).save("photos/val/grey.png")
    ran = run("infer", "photos/val", "--format", kind, "-o", "rows", "--top-k", 9, "--engine", "alexnet-int8")
    assert ran.code == 3
    assert "1 of 8 inputs failed" in ran.err
    if kind == "jsonl":
        rows = [json.loads(line) for line in Path("rows").read_text().splitlines()]
        assert all(set(row) == {"file", "top", "error"} for row in rows)
        assert [row["file"] for row in rows if row["error"]] == ["photos/val/broken.jpg"]
        good = next(row for row in rows if not row["error"])
        assert {answer["label"] for answer in good["top"]} == {"red", "green", "blue"}
        assert sum(answer["probability"] for answer in good["top"]) == pytest.approx(1)
    elif kind == "csv":
        header, *rows = csv.reader(Path("rows").read_text().splitlines())
        assert header[-3:] == ["label_3", "index_3", "probability_3"]  # as many as there are classes
        assert len(rows) == 8
    elif kind == "parquet":
        table = pq.read_table("rows")
        assert table.column_names == ["file", "top", "error"]
        assert table["error"].null_count == 7
    else:
        assert len(Path("rows").read_text().splitlines()) == 8


def test_runtimes_agree_and_a_bare_onnx_runs(run: Run, here: Path) -> None:
    answers = []
    for engine, runtime in (
        ("engines/alexnet.onnx", "openvino"),
        ("engines/alexnet.onnx", "onnxruntime"),
        ("alexnet-fp16", "onnxruntime"),
    ):
        ran = run("infer", "photos/val", "--engine", engine, "--runtime", runtime, "--format", "jsonl")
        assert ran.code == 0
        answers.append([json.loads(line)["top"][0]["index"] for line in ran.out.splitlines()])
    assert answers[0] == answers[1] == answers[2]


def test_a_bare_fp8_onnx_runs_as_in_its_bundle(run: Run, here: Path) -> None:
    """ONNX Runtime computes an FP8 Gemm wrongly where it optimises as for a float model."""
    assert run("build-engine", "--fp8", "--calibration-data", "photos/train", "--calibration-images", 4).code == 0
    answers = []
    for engine in ("alexnet-fp8", "engines/alexnet-fp8/model.onnx"):
        ran = run("infer", "photos/val", "--engine", engine, "--runtime", "onnxruntime", "--format", "jsonl")
        assert "(fp8)" in ran.err
        answers.append(ran.out)
    assert answers[0] == answers[1]


def test_engines_and_inspect(run: Run, here: Path) -> None:
    rows = json.loads(run("engines", "--json").out)
    assert [(row["engine"], row["precision"]) for row in rows] == [("alexnet-int8", "int8"), ("alexnet-fp16", "fp16")]
    shown = run("inspect", "alexnet-fp16")
    assert shown.code == 0
    assert "features.0/Conv" in shown.out
    assert "8 layers: 8 fp16" in shown.out
    shutil.rmtree("engines")
    assert "holds no engine" in run("engines").out


def test_evaluate_and_profile(run: Run, here: Path) -> None:
    ran = run("evaluate", "photos/val", "--engine", "alexnet-fp16", "--json")
    report = json.loads(ran.out)
    (row,) = report["engines"]
    assert (row["engine"], report["images"], report["unreadable"]) == ("alexnet-fp16", 6, [])
    assert 0 <= row["top1_percent"] <= row["top5_percent"] == 100  # three classes: all are among the first five
    ran = run("profile", "--duration", 0.01, "--json")
    rows = json.loads(ran.out)
    assert [row["engine"] for row in rows] == ["alexnet-int8", "alexnet-fp16"]
    batches = [batch for row in rows for batch in row["batches"]]
    assert all(b["iterations"] >= 10 and b["min_ms"] <= b["median_ms"] <= b["max_ms"] for b in batches)


def test_foreign_onnx_through_build_and_infer(run: Run, here: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 4, 4], [0.01 * i for i in range(144)])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]),
            helper.make_node("GlobalAveragePool", ["c"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Softmax", ["f"], ["p"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 32, 32])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [2, 3])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), "foreign.onnx")
    said = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    refused = run("build-engine", "foreign.onnx", "--fp16")
    assert refused.code == 2
    assert "--mean 0.485,0.456,0.406" in refused.error
    assert run("build-engine", "foreign.onnx", "--fp16", *said).code == 0
    assert run("infer", "photos/val", "--engine", "foreign-fp16").code == 0
    ran = run("infer", "photos/val", "--engine", "foreign.onnx", *said, "--format", "jsonl")
    assert ran.code == 0
    assert json.loads(ran.out.splitlines()[0])["top"][0]["label"] in ("0", "1", "2")


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
        (_nothing, ["infer", "photos", "--engines", "empty"], 1, "build one: alexnet-deploy build-engine --fp16"),
        (_nothing, ["infer", "photos", "--top-k", 0], 2, "--top-k 0"),
        (_nothing, ["infer", "photos", "--format", "xml"], 2, "--format xml: unknown; choose one of table, jsonl"),
        (_nothing, ["infer", "photos", "--format", "parquet"], 2, "add --output"),
        (_nothing, ["infer", "photos", "--runtime", "abacus"], 2, "--runtime abacus: unknown"),
        (_nothing, ["infer", "photos", "--threads", 0], 2, "--threads 0"),
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
        (_nothing, ["build-engine", "--int8"], 2, "--int8 needs --calibration-data DIR"),
        (_nothing, ["build-engine", "--int8", "--fp8"], 2, "exclude each other"),
        (_nothing, ["build-engine", "--fp16", "--calibration-data", "photos"], 2, "--calibration-data has no use"),
        (_nothing, ["build-engine", "--int8", "--calibration-data", "empty"], 1, "empty: holds no image"),
        (
            _nothing,
            ["build-engine", "--int8", "--calibration-data", "photos", "--calibration-method", "guess"],
            2,
            "--calibration-method guess: unknown; choose one of max, percentile, entropy, mse",
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
            "engines/alexnet.onnx: --target sm80 has no FP8; use sm89 or later",
        ),
        (_nothing, ["build-engine", "-o", "photos"], 1, "photos: holds train, so it is not just an engine bundle"),
        (_nothing, ["build-engine", "-o", "/proc/no/bundle"], 1, "cannot be written"),
        (_truncate_model, ["infer", "photos", "--engine", "alexnet-fp16"], 1, "the manifest says"),
        (_edit(MODEL), ["infer", "photos", "--engine", "alexnet-fp16"], 1, "SHA-256 differs"),
        (_edit("portable.plan"), ["inspect", "alexnet-fp16"], 1, "portable.plan: was edited, its SHA-256 differs"),
        (_other_schema, ["inspect", "alexnet-fp16"], 1, "bundle schema 99, this version reads 1"),
        (_nothing, ["evaluate", "photos"], 1, "folder 'train' is no class of this model"),
        (_nothing, ["evaluate", "empty"], 1, "empty: holds no class folders"),
        (_nothing, ["profile", "--batch", 0], 2, "--batch 0"),
        (_nothing, ["profile", "--engines", "empty"], 1, "empty/ holds no engine"),
        (_nothing, ["export", "--weights", "none.safetensors"], 1, "none.safetensors: no such checkpoint"),
        (_nothing, ["summary", "lenet"], 2, "--arch lenet: unknown"),
    ],
)
def test_bad_input_is_one_clear_line(
    run: Run, here: Path, prepare: Callable[[Path], None], arguments: list[object], code: int, message: str
) -> None:
    prepare(here)
    before = sorted(Path().rglob("*"))
    ran = run(*arguments)
    assert ran.code == code, ran.err
    assert message in ran.error
    assert "Traceback" not in ran.err
    assert sorted(Path().rglob("*")) == before, "a failed command left something behind"


def test_a_failed_build_leaves_the_old_bundle(run: Run, here: Path) -> None:
    before = Path("engines/alexnet-fp16", MANIFEST).read_bytes()
    assert run("build-engine", "--fp16", "--target", "sm90").code == 2
    assert Path("engines/alexnet-fp16", MANIFEST).read_bytes() == before


def test_summary_prints_the_paper_network(run: Run) -> None:
    ran = run("summary", "alexnet-2012")
    assert ran.code == 0
    assert "60,965,224" in ran.out
    assert "[1, 96, 55, 55]" in ran.out


def test_help_and_version(run: Run) -> None:
    listed = run("--help").out
    assert all(
        name in listed for name in ("export", "build-engine", "infer", "evaluate", "profile", "engines", "inspect")
    )
    assert run("--version").out.startswith("alexnet-deploy 0.")
    assert run("infer").code == 2
