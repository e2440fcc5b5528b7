"""Predictions written down: what a program reads back is what was predicted, and a file appears whole or not."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.inference import parquet
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.writers import Format, open_writer

GOOD = Prediction("photos/kirk.jpg", (Answer(4, "church", 0.93), Answer(0, "tench, Tinca tinca", 0.05)))
BAD = Prediction("broken.jpg", (), "broken.jpg: cannot be decoded (cut off); get a whole copy of the file")
ODD = Prediction(os.fsdecode(b"caf\xe9 \xc3\xa9\n\x1b[2J.jpg"), (Answer(1, 'a "b", ж', 1.0),), unknown=True)
ROWS = [GOOD, BAD, ODD]


def written(path: Path, format_: Format, rows: list[Prediction], *, top_k: int = 2) -> Path:
    with open_writer(format_, path, top_k=top_k) as write:
        for row in rows:
            write(row)
    return path


def spelled(file: str) -> str:
    """A file name as valid text: bytes that are none appear as their JSON escape."""
    return file.encode("utf-8", "backslashreplace").decode()


@given(
    rows=st.lists(
        st.builds(
            Prediction,
            st.text(st.characters(), min_size=1),
            st.lists(st.builds(Answer, st.integers(0, 999), st.text(), st.floats(0, 1)), max_size=3).map(tuple),
            st.none() | st.text(),
        ),
        max_size=4,
    )
)
def test_jsonl_round_trips_any_file_name(tmp_path_factory: pytest.TempPathFactory, rows: list[Prediction]) -> None:
    path = written(tmp_path_factory.mktemp("jsonl") / "out.jsonl", "jsonl", rows)
    lines = path.read_bytes().decode("utf-8").split("\n")  # valid UTF-8, whatever the names are made of
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [row.as_row() for row in rows]


def test_a_jsonl_line_is_the_documented_row(tmp_path: Path) -> None:
    assert written(tmp_path / "out", "jsonl", [GOOD]).read_text() == (
        '{"file": "photos/kirk.jpg", "top": [{"index": 4, "label": "church", "probability": 0.93}, '
        '{"index": 0, "label": "tench, Tinca tinca", "probability": 0.05}], "error": null, "unknown": null}\n'
    )


def test_csv_has_one_column_a_value(tmp_path: Path) -> None:
    with written(tmp_path / "out.csv", "csv", ROWS).open(encoding="utf-8", newline="") as stream:
        header, good, bad, odd = csv.reader(stream)
    answers = ["label_1", "index_1", "probability_1", "label_2", "index_2", "probability_2"]
    assert header == ["file", "error", *answers, "unknown"]
    assert good == ["photos/kirk.jpg", "", "church", "4", "0.93", "tench, Tinca tinca", "0", "0.05", ""]
    assert bad == ["broken.jpg", str(BAD.error), *[""] * 7]
    assert odd == [spelled(ODD.file), "", 'a "b", ж', "1", "1.0", "", "", "", "true"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\n", "\r", "\r\n", "photo\r=", "a\n="])
def test_no_text_of_a_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    """A spreadsheet would compute it, and names, labels and errors may be anybody's."""
    text = f"{start}1+1"
    rows = [Prediction(text, (Answer(0, text, 0.5),)), Prediction(text, (), text)]
    with written(tmp_path / "out.csv", "csv", rows).open(encoding="utf-8", newline="") as stream:
        _, answered, failed = csv.reader(stream)
    cell = text if start[0] in "pa" else f"'{text}"
    assert answered[:5] == [cell, "", cell, "0", "0.5"]
    assert failed[:2] == [cell, cell]


def test_parquet_nests_the_answers_and_streams_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 2)
    path = written(tmp_path / "out.parquet", "parquet", ROWS)
    expected = [row.as_row() for row in ROWS]
    expected[2]["file"] = spelled(ODD.file)
    assert pq.read_table(path).to_pylist() == expected
    assert pq.ParquetFile(path).num_row_groups == 2


@pytest.mark.parametrize(("format_", "size"), [("jsonl", 0), ("csv", 1), ("parquet", 0), ("table", 0)])
def test_no_predictions_still_make_a_file(tmp_path: Path, format_: Format, size: int) -> None:
    path = written(tmp_path / "out", format_, [])
    rows = pq.read_table(path).num_rows if format_ == "parquet" else len(path.read_text().splitlines())
    assert rows == size


def test_a_table_in_a_file_is_aligned_and_cuts_no_name(tmp_path: Path) -> None:
    long = Prediction("deep/" * 30 + "x.jpg", GOOD.top)
    good, bad, odd, deep = written(tmp_path / "out.txt", "table", [*ROWS, long]).read_text("utf-8").splitlines()
    assert good.split() == ["photos/kirk.jpg", "church", "93.0%", "tench,", "Tinca", "tinca", "5.0%"]
    assert bad.split(maxsplit=1) == ["broken.jpg", "cannot be decoded (cut off); get a whole copy of the file"]
    assert odd.startswith(r"caf\udce9 é\n\x1b[2J.jpg ")
    assert good.index("church") == bad.index("cannot") == odd.index('unknown: a "b"')
    assert deep.startswith(long.file + "  church")


def test_a_table_on_a_terminal_keeps_to_its_width_and_the_end_of_the_path() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    with open_writer("table", None, top_k=2, console=console) as write:
        write(Prediction("very/long/" * 9 + "kirk.jpg", GOOD.top * 5))
        write(Prediction("教会" * 20 + ".jpg", GOOD.top))
        write(BAD)
    long, wide, bad = screen.getvalue().splitlines()
    assert "kirk.jpg  church" in long
    assert ".jpg  church" in wide
    assert cell_len(long) == 60
    assert cell_len(wide) <= 60
    assert bad.endswith("get a whole copy of the file")  # an error is never cut
    assert bad.index("cannot") == long.index("church")


@pytest.mark.parametrize("format_", ["jsonl", "csv", "table"])
def test_the_standard_output_gets_the_same_bytes_and_stays_open(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], format_: Format
) -> None:
    with open_writer(format_, None, top_k=2) as write:
        for row in ROWS:
            write(row)
    sys.stdout.write("after\n")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == written(tmp_path / "out", format_, ROWS).read_bytes() + b"after\n"


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_a_run_that_fails_leaves_the_old_file(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def run() -> None:
        with open_writer(format_, path, top_k=2) as write:
            write(GOOD)
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        run()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: Format
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # where file systems that allocate late say so
    with pytest.raises(UnavailableError, match="no room left"):
        written(tmp_path / "out", format_, ROWS)
    assert os.listdir(tmp_path) == []


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "alexnet_deploy.inference.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"alexnet-deploy\[parquet\]"):
        written(tmp_path / "out", "parquet", ROWS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("format_", "output", "message"),
    [
        ("jsonl", Path("."), "not a plain file"),
        ("jsonl", Path(os.devnull), "not a plain file"),
        ("parquet", None, "give an `output` file"),
    ],
)
def test_an_output_that_will_not_do_is_refused(format_: Format, output: Path | None, message: str) -> None:
    with pytest.raises(UsageError, match=message), open_writer(format_, output, top_k=2):
        pass
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("format_", ["jsonl", "csv", "table"])
def test_a_reader_that_leaves_is_an_error_that_leaves_nothing_to_flush(format_: Format) -> None:
    program = f"""
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.writers import open_writer
try:
    with open_writer({format_!r}, None, top_k=1) as write:
        while True:
            write(Prediction("a.jpg", (Answer(0, "church", 1.0),)))
except BrokenPipeError:
    pass
"""
    command = [sys.executable, "-W", "error", "-c", program]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
