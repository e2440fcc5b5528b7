"""The options of ``infer`` about sources and long runs, on a tiny model."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from alexnet_deploy.inference.engine import OpenEngine
from tests.helpers.command import Command, RunResult
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.photos import save_photo
from tests.helpers.repository import ROOT

ENGINE = ("--engine", "tiny.onnx", "--runtime", "openvino")
NAMES = [f"photos/{i}.jpg" for i in range(6)]
pytestmark = pytest.mark.usefixtures("place")


def rows(text: str) -> list[str]:
    return [json.loads(line)["file"] for line in text.splitlines()]


def interrupted(command: Command, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> RunResult:
    """``infer`` ended by Ctrl-C in its third batch of one image."""
    calls = []

    def call(self: OpenEngine, pixels: object) -> object:
        calls.append(pixels)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pixels)  # type: ignore[arg-type]

    original = OpenEngine.__call__
    with monkeypatch.context() as patch:
        patch.setattr(OpenEngine, "__call__", call)
        return command("infer", *arguments, *ENGINE, "--batch", 1)


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_an_interrupted_run_goes_on(command: Command, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    options = ("photos", "--format", format_, "-o", "rows")
    ran = interrupted(command, monkeypatch, *options)
    assert ran.code == 130
    assert "rows.journal keeps the rows so far; the same command with --resume goes on" in ran.err
    assert not Path("rows").exists()
    refused = command("infer", *options, *ENGINE)
    assert refused.code == 2
    assert (
        "keeps 2 rows of a run that did not end; go on with --resume, or discard them with --overwrite" in refused.error
    )
    for other, what in ((("--top-k", "2"), "top_k 5, this run has 2"), (("--threshold", ".1"), "threshold None")):
        refused = command("infer", *options, *ENGINE, "--resume", *other)
        assert refused.code == 2
        assert what in refused.error
    ran = command("infer", *options, *ENGINE, "--resume")
    assert ran.code == 0, ran.err
    assert "2 of 6 rows come from the run before" in ran.err
    assert command("infer", *options[:-1], "one", *ENGINE).code == 0
    assert Path("rows").read_bytes() == Path("one").read_bytes()
    assert not Path("rows.journal").exists()
    assert "is complete" in command("infer", *options, *ENGINE, "--resume").error


def test_another_engine_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(command, monkeypatch, "photos", "-o", "rows")
    tiny_model(Path("tiny.onnx"), "fp16")
    assert "was begun with engine " in command("infer", "photos", "-o", "rows", *ENGINE, "--resume").error
    assert command("infer", "photos", "-o", "rows", *ENGINE, "--overwrite").code == 0
    assert len(Path("rows").read_text().splitlines()) == 6


def test_rows_of_removed_images_stay_and_are_counted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("photos", "--format", "jsonl", "-o", "rows")
    interrupted(command, monkeypatch, *options)
    Path("photos/0.jpg").rename("photos/00.jpg")
    ran = command("infer", *options, *ENGINE, "--resume")
    assert "1 rows are of images that are no longer among the inputs; they stay" in ran.err
    assert rows(Path("rows").read_text()) == [*NAMES[:2], "photos/00.jpg", *NAMES[2:]]


def test_a_threshold_may_leave_no_class(command: Command) -> None:
    full = command("infer", "photos", *ENGINE, "--format", "jsonl", "--top-k", 10).out
    found = command("infer", "photos", *ENGINE, "--format", "jsonl", "--top-k", 10, "--threshold", "0.11").out
    for all_classes, some in zip(map(json.loads, full.splitlines()), map(json.loads, found.splitlines()), strict=True):
        assert some["top"] == [answer for answer in all_classes["top"] if answer["probability"] >= 0.11]
        assert some["error"] is None
    ran = command("infer", "photos", *ENGINE, "--threshold", "1")
    assert (ran.code, ran.out.count("no class reaches the threshold")) == (0, 6)
    for value in ("1.5", "-0.1", "nan"):
        assert f"--threshold {value}" in command("infer", "photos", *ENGINE, "--threshold", value).error


def test_lists_parts_and_the_standard_input(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list").write_text("./photos/0.jpg\ngone.jpg\n")
    ran = command("infer", "--from-file", "list", "photos/5.jpg", *ENGINE, "--format", "jsonl")
    assert (ran.code, rows(ran.out)) == (3, ["photos/5.jpg", "./photos/0.jpg", "gone.jpg"])
    parts = [rows(command("infer", "photos", *ENGINE, "--format", "jsonl", "--shard", f"{i}/3").out) for i in (1, 2, 3)]
    assert sorted(parts[0] + parts[1] + parts[2]) == NAMES
    for shard in ("0/4", "5/4"):
        assert (
            f"--shard {shard}: no such part; parts count from 1/4 to 4/4"
            in command("infer", "photos", "--shard", shard).error
        )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("photos/3.jpg").read_bytes())))
    ran = command("infer", "-", *ENGINE, "--format", "jsonl")
    assert rows(ran.out) == ["-"]
    assert json.loads(ran.out)["top"] == json.loads(command("infer", NAMES[3], *ENGINE, "--format", "jsonl").out)["top"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give files, folders or addresses as IMAGES, or a list as --from-file"),
        (("photos", "--watch", "photos"), "--watch takes no other images"),
        (("photos", "--resume"), "--resume is about a file; give --output"),
        (("photos", "-o", "rows", "--resume", "--overwrite"), "cannot be combined"),
        (("http://localhost/a.jpg",), "use https or --allow-http"),
        (("photos", "-o", "photos/1.jpg"), "--output photos/1.jpg: is an image"),
        (("photos/1.jpg", "-o", "photos/1.jpg"), "--output photos/1.jpg: is the same file as the input"),
        (("--from-file", "list", "-o", "list"), "--output list: is the same file as the input list"),
        (("photos", "--json"), "--json: infer writes rows; its JSON is --format jsonl, one object per line"),
        (("photos", "-o", "rows.json"), "--output rows.json: '.json' is the suffix of no format; end it in .jsonl, "),
        (("photos", "-o", "tiny.onnx"), "--output tiny.onnx: is the same file as the input tiny.onnx"),
        (("--from-file", "gone"), "--from-file gone: cannot be read"),
    ],
)
def test_what_is_refused_changes_nothing(command: Command, arguments: tuple[str, ...], message: str) -> None:
    Path("list").write_text("photos/1.jpg\n")
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    ran = command("infer", *arguments, *ENGINE)
    assert message in ran.error
    assert ran.code == 2 if arguments != ("--from-file", "gone") else 1
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


def _foreign(journal: Path) -> None:
    journal.write_text("photos/1.jpg\n")


def _folder(journal: Path) -> None:
    journal.mkdir()


def _fifo(journal: Path) -> None:
    os.mkfifo(journal)


def _of_another_process(journal: Path) -> int:
    descriptor = os.open(journal, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # a lock is of a descriptor, not of a process
    return descriptor


@pytest.mark.parametrize("make", [_foreign, _folder, _fifo, _of_another_process])
@pytest.mark.parametrize("options", [(), ("--resume",), ("--overwrite",)])
def test_a_journal_that_is_not_ours_is_left_alone(
    command: Command, make: Callable[[Path], int | None], options: tuple[str, ...]
) -> None:
    """Nor is it said that it keeps the rows of this run."""
    journal = Path("rows.journal")
    descriptor = make(journal)
    before = journal.stat()
    ran = command("infer", "photos", "-o", "rows", *options, *ENGINE)
    assert (ran.code, "/rows.journal: " in ran.error) == (1, True), ran.error
    assert "--resume goes on" not in ran.err
    if descriptor is not None:
        os.close(descriptor)
    after = journal.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_list_with_the_name_of_the_journal_is_not_overwritten(command: Command) -> None:
    _foreign(Path("rows.journal"))
    ran = command("infer", "--from-file", "rows.journal", "-o", "rows", "--overwrite", *ENGINE)
    assert (ran.code, "is in the way, as it is no journal" in ran.error) == (1, True)
    assert Path("rows.journal").read_text() == "photos/1.jpg\n"


def test_no_file_of_the_engine_is_replaced(command: Command, place: Path) -> None:
    build_bundle(place / "tiny.onnx", place / "bundle")
    model = onnx.load("tiny.onnx")
    onnx.save_model(
        model, "split.onnx", save_as_external_data=True, location="values.bin", size_threshold=0, convert_attribute=True
    )
    files = [*Path("bundle").iterdir(), Path("split.onnx"), Path("values.bin")]
    before = {path: path.read_bytes() for path in files}
    assert len(files) > 4
    for path in files:
        engine = "bundle" if path.parent == Path("bundle") else "split.onnx"
        ran = command("infer", "photos", "--engine", engine, "-o", path, "--format", "csv")
        words = "is a file of the engine bundle" if engine == "bundle" else "is the same file as the input"
        assert (ran.code, words in ran.error) == (2, True), ran.err
    assert {path: path.read_bytes() for path in files} == before


def test_what_is_no_list_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").touch()
    Path("wide").write_text("photos/1.jpg\r\nphotos/2.jpg\r\n", encoding="utf-16")
    assert rows(command("infer", "--from-file", "wide", *ENGINE, "--format", "jsonl").out) == NAMES[1:3]
    for name, words in ((NAMES[0], "is an image, not a list"), ("empty", "names no image"), ("tiny.onnx", "neither")):
        ran = command("infer", "--from-file", name, "-o", "rows", *ENGINE)
        assert (ran.code, f"{name}: " in ran.error, words in ran.error) == (1, True, True), ran.err
        assert ran.err.splitlines()[-1] == ran.error
        assert not Path("rows.journal").exists()
    for data, words in ((b"", "is empty"), (bytes(100), "is neither a list nor an image")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        ran = command("infer", "-", *ENGINE)
        assert (ran.code, f"standard input: {words}" in ran.error) == (1, True), ran.err


def test_an_input_without_an_images_name_is_not_replaced_either(command: Command) -> None:
    Path("photos/6.jpg").write_bytes(b"damaged")
    ran = command("infer", "photos", "-o", "photos/6.jpg", "--format", "csv", *ENGINE)
    assert (ran.code, "is the same file as the input" in ran.error) == (2, True)
    assert Path("photos/6.jpg").read_bytes() == b"damaged"


@pytest.mark.parametrize("name", ["=1+1.jpg", "+a.jpg", "-2.jpg", "@x.jpg", "\tx.jpg", "\rx.jpg", "\uff1dx.jpg"])
def test_a_csv_cell_is_no_formula(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir("photos")
    Path("0.jpg").rename(name)
    ran = command("infer", "*x.jpg", "*a.jpg", "*2.jpg", "*1.jpg", "--engine", "../tiny.onnx", "--format", "csv")
    assert name[0] not in [row[0][0] for row in csv.reader(io.StringIO(ran.out, newline=""))]
    ran = command("infer", f"./{name}", "--engine", "../tiny.onnx", "--format", "jsonl")
    assert rows(ran.out) == [f"./{name}"]


def test_no_control_or_direction_character_reaches_the_table(command: Command) -> None:
    odd = "\x1b[31m\u202egpj.jpg"
    Path("photos/0.jpg").rename(f"photos/{odd}")
    ran = command("infer", "photos", *ENGINE)
    assert not {"\x1b", "\u202e"} & set(ran.out)


def test_a_watch_answers_what_comes_and_ends_with_its_output(place: Path) -> None:
    command = [sys.executable, "-m", "alexnet_deploy", "infer", "--watch", "photos", *ENGINE]
    command += ["--format", "jsonl", "-o", "rows", "--resume"]
    expected: list[str] = []
    for number, ending in ((0, signal.SIGTERM), (7, signal.SIGINT)):
        if number:
            save_photo(place / f"photos/{number}.jpg", (1, 2, 3), number)
        expected = [*NAMES, *(["photos/7.jpg"] if number else [])]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) as watching:
            assert watching.stderr is not None
            journal = Path("rows.journal")
            started = time.monotonic()
            while not journal.exists() or journal.read_bytes().count(b"\n") <= len(expected):
                assert watching.poll() is None, watching.stderr.read()
                assert time.monotonic() < started + 60, journal.read_bytes()  # in place of waiting for ever
            watching.send_signal(ending)
            assert watching.wait(timeout=60) == 0, watching.stderr.read()
        assert rows(Path("rows").read_text()) == expected


def test_a_run_reads_the_pixels_of_the_file(command: Command) -> None:
    """The same row, whichever way a photo is named."""
    ways = ((NAMES[2],), ("./photos/2.jpg",), ("photos/2.*",))
    found = [json.loads(command("infer", *way, *ENGINE, "--format", "jsonl").out)["top"] for way in ways]
    assert found[0] == found[1] == found[2]
