"""A number for every class: in each format, after a kill, in parts, from many machines, and what goes with it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.inference.journal import open_journal
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import FullOutputs, Outputs, Prediction
from alexnet_deploy.inference.ray.worker import PartWorker
from alexnet_deploy.inference.run_settings import settings_of
from alexnet_deploy.inference.writers import Format, open_writer
from alexnet_deploy.probabilities import probabilities
from tests.helpers.command import Command
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.photos import save_photo
from tests.helpers.runners import FakeRunner, numbered_contract
from tests.inference.ray.test_worker import packed, parts_of

TWO_CRANES = FullOutputs("logits", ("n02012849", "n03126707", "=id"), ("crane", "crane", "=label"))
ROWS = (
    Prediction("a.jpg", (), None, "logits", (0.5, -1.25, 3.0)),
    Prediction("b.jpg", (), "b.jpg: is empty (0 bytes); get a whole copy", "logits"),
)
ENGINE = ("--engine", "tiny.onnx", "--runtime", "openvino")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``tiny.onnx``, four photos and a file that is none."""
    tiny_model(tmp_path / "tiny.onnx")
    for i in range(4):
        save_photo(tmp_path / f"photos/{i}.jpg", (60 * i, 90, 120), i)
    (tmp_path / "photos/2a.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: Path, format_: Format, full: FullOutputs = TWO_CRANES) -> Path:
    with open_writer(format_, path, top_k=5, full=full) as write:
        for row in ROWS:
            write(row)
    return path


def test_json_lines_hold_the_numbers_under_their_name(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path / "x", "jsonl").read_text().splitlines()]
    assert lines[0] == {"file": "a.jpg", "logits": [0.5, -1.25, 3.0], "error": None, "unknown": None}
    assert lines[1] == {"file": "b.jpg", "logits": None, "error": ROWS[1].error, "unknown": None}
    assert [Prediction.from_row(line) for line in lines] == list(ROWS)


def test_csv_has_a_column_per_class_named_by_what_is_unique(tmp_path: Path) -> None:
    header, good, bad = csv.reader(StringIO(written(tmp_path / "x", "csv").read_text()))
    assert header == ["file", "error", "logit_n02012849", "logit_n03126707", "logit_=id", "unknown"]
    assert good == ["a.jpg", "", "0.5", "-1.25", "3.0", ""]
    assert bad == ["b.jpg", ROWS[1].error, "", "", "", ""]
    full = replace(TWO_CRANES, outputs="probabilities")
    assert full.columns == ["probability_n02012849", "probability_n03126707", "probability_=id"]


def test_parquet_names_the_classes_in_its_metadata(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "x", "parquet"))
    assert table.column("logits").to_pylist() == [[0.5, -1.25, 3.0], None]
    assert str(table.schema.field("logits").type) == "list<element: float>"
    named = json.loads(table.schema.metadata[b"classes"])
    assert named[1] == {"class_id": "n03126707", "label": "crane"}
    assert len(named) == 3


def test_parquet_of_many_classes_is_written_in_groups_that_fit_memory(tmp_path: Path) -> None:
    names = tuple(map(str, range(1 << 18)))
    row = Prediction("a.jpg", (), None, "probabilities", (0.5,) * len(names))
    with open_writer("parquet", tmp_path / "x", top_k=5, full=FullOutputs("probabilities", names, names)) as write:
        for _ in range(9):
            write(row)
    metadata = pq.read_metadata(tmp_path / "x")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 1]


def test_a_table_ranks_all_classes_and_a_terminal_cuts_the_line(tmp_path: Path) -> None:
    text = written(tmp_path / "x", "table").read_text()
    assert text.splitlines()[0].split() == ["a.jpg", "=label", "3.00", "crane", "0.50,", "crane", "-1.25"]
    console = Console(file=StringIO(), width=40, force_terminal=True, color_system=None)
    with open_writer("table", None, top_k=5, full=TWO_CRANES, console=console) as write:
        write(ROWS[0])
    assert isinstance(console.file, StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert len(line) == 40


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_numbers_are_those_of_the_engine(outputs: Outputs, activation: str, tmp_path: Path) -> None:
    contract = numbered_contract(5, temperature=2.0, activation=activation)
    save_photo(tmp_path / "a.jpg", (3, 3, 3), 0)
    runner = FakeRunner(contract)
    (row,) = predict(runner, [tmp_path / "a.jpg"], outputs=outputs)
    (top,) = predict(runner, [tmp_path / "a.jpg"])
    assert row.values is not None
    assert len(row.values) == 5
    logits_NK = np.zeros((1, 5), np.float32)
    logits_NK[0, top.top[0].index] = 10
    expected = logits_NK if outputs == "logits" else probabilities(logits_NK, contract)
    assert list(row.values) == expected[0].tolist()
    if outputs == "probabilities":
        assert {a.index: a.probability for a in top.top} == dict(enumerate(row.values))


def test_a_row_that_is_not_finite_is_an_error_between_others(tmp_path: Path) -> None:
    class Spoils(FakeRunner):
        def __call__(self, pixels_NHWC: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            logits_NK = super().__call__(pixels_NHWC)
            logits_NK[1] = np.nan
            return logits_NK

    for i in range(3):
        save_photo(tmp_path / f"{i}.jpg", (9, 9, 9), i)
    rows = list(predict(Spoils(numbered_contract(4)), sorted(tmp_path.glob("*.jpg")), outputs="logits"))
    assert [row.values is None for row in rows] == [False, True, False]
    assert rows[1].error is not None
    assert "not finite" in rows[1].error


@pytest.mark.parametrize("option", [("--top-k", "3"), ("--threshold", "0.1"), ("--top-k", "5")])
@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
def test_the_best_classes_and_all_of_them_are_two_wishes(
    place: Path, command: Command, outputs: str, option: tuple[str, str]
) -> None:
    ran = command("infer", "photos", *ENGINE, "--outputs", outputs, *option)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == f"error: {option[0]}: --outputs {outputs} has a number for every class; leave one of them out"


@pytest.mark.parametrize("extra", [(), ("--ten-crop",)])
@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_an_interrupted_run_goes_on(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch, format_: str, extra: tuple[str, ...]
) -> None:
    options = ("photos", *ENGINE, "--outputs", "logits", "--format", format_, "--batch", 1, *extra)
    assert command("infer", *options, "-o", "whole").code == 3
    calls: list[object] = []
    original = OpenEngine.__call__

    def call(self: OpenEngine, pixels: object) -> object:
        calls.append(pixels)
        if len(calls) == (30 if extra else 3):
            raise KeyboardInterrupt
        return original(self, pixels)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(OpenEngine, "__call__", call)
        assert command("infer", *options, "-o", "rows").code == 130
    for other, name in ((("--outputs", "probabilities"), "outputs"), (("--ten-crop",), "ten_crop")):
        if not set(other) & set(extra):
            refused = command("infer", *options, *other, "-o", "rows", "--resume")
            assert refused.code == 2
            assert f"was begun with {name} " in refused.error
    ran = command("infer", *options, "-o", "rows", "--resume")
    assert ran.code == 3
    assert "rows come from the run before" in ran.err
    assert Path("rows").read_bytes() == Path("whole").read_bytes()


def test_a_run_that_an_earlier_version_began_goes_on(place: Path, command: Command) -> None:
    """Its journal names neither the outputs nor the views."""
    options = ("photos", *ENGINE, "--format", "jsonl", "-o", "rows")
    assert command("infer", *options).code == 3
    whole = Path("rows").read_bytes()
    Path("rows").unlink()
    with open_engine("tiny.onnx", runtime="openvino") as engine:
        settings = settings_of(engine.model_sha256(), engine.contract, top_k=5, threshold=None, shard=None)
    assert not {"outputs", "ten_crop"} & settings.keys()
    with open_journal(Path("rows.journal"), settings | {"format": "jsonl"}) as journal:
        journal.append(Prediction.from_row(json.loads(whole.splitlines()[0])))
        journal.flush()
    ran = command("infer", *options, "--resume")
    assert "1 of 5 rows come from the run before" in ran.err
    assert Path("rows").read_bytes() == whole
    assert command("infer", *options, "--outputs", "logits", "--overwrite").code == 3


def test_shards_share_the_rows(place: Path, command: Command) -> None:
    options = ("photos", *ENGINE, "--outputs", "probabilities", "--format", "jsonl", "--ten-crop")
    whole = sorted(command("infer", *options).out.splitlines())
    parts = [command("infer", *options, "--shard", f"{i}/2").out.splitlines() for i in (1, 2)]
    assert sorted([*parts[0], *parts[1]]) == whole
    assert all(parts)


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
def test_workers_of_a_cluster_give_the_rows_of_infer(place: Path, command: Command, outputs: Outputs) -> None:
    options = ("--outputs", outputs, "--ten-crop", "--format", "parquet", "-o", "rows", "--batch", 3)
    assert command("infer", "photos", *ENGINE, *options).code == 3
    files, settings = packed("tiny.onnx")
    worker = PartWorker(replace(settings, outputs=outputs, ten_crop=True, batch=3), files)
    tables = [pq.read_table(BytesIO(worker(part).parquet)) for part in parts_of()]
    assert [row for table in tables for row in table.to_pylist()] == pq.read_table("rows").to_pylist()
    assert tables[0].schema.equals(pq.read_table("rows").schema, check_metadata=True)
