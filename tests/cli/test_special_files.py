"""A FIFO or a device in the place of any input or output is one line at once: nothing waits or reads for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.command import Command
from tests.helpers.models.bundles import make_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    root = make_workplace(tmp_path_factory.mktemp("workplace"), photo_folder)
    for name in ("x.jpg", "x.onnx", "x.safetensors", "x.pth", "x.json", "x.txt", "x.html", "x.png", "photos/x.jpg"):
        os.mkfifo(root / name)
    return root


@pytest.fixture(autouse=True)
def _no_waiting(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A minute is far more than any of them takes on a busy machine."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError("it waits for the FIFO")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    monkeypatch.chdir(workplace)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("infer photos --engine x.onnx", 1, "x.onnx: cannot be read (it is a FIFO, not a plain file)"),
        ("infer photos --engine x.json", 1, "x.json: is not an engine bundle"),
        ("infer photos --engine /dev/zero", 1, "/dev/zero: is not an engine bundle"),
        ("infer photos --engine exact --format jsonl -o x.txt", 2, "x.txt: is not a plain file"),
        ("build-engine x.onnx", 1, "x.onnx: cannot be read (it is a FIFO, not a plain file)"),
        ("build-engine /dev/zero", 1, "/dev/zero: cannot be read (it is a device, not a plain file)"),
        ("build-engine colours.onnx -o x.json", 1, "x.json: a file of this name is in the way"),
        ("export --weights x.safetensors", 1, "it is a FIFO, not a plain file"),
        ("export --weights x.pth", 1, "it is a FIFO, not a plain file"),
        ("summary x.safetensors", 1, "it is a FIFO, not a plain file"),
        ("diagnose x.onnx --data photos", 1, "it is a FIFO, not a plain file"),
        ("profile x.onnx", 1, "it is a FIFO, not a plain file"),
        ("evaluate x.jpg --engine exact", 1, "x.jpg: no such folder"),
        ("recommend x.json", 1, "x.json: cannot be read (it is a FIFO, not a plain file)"),
        ("report --from x.json", 1, "x.json: cannot be read (it is a FIFO, not a plain file)"),
        ("report --data photos/val -o x.html", 2, "x.html: is not a plain file"),
        ("engines --store x.json", 1, "x.json: no such folder"),
        ("inspect x.json", 1, "x.json: is not an engine bundle"),
    ],
)
def test_it_is_refused_in_one_line(command: Command, typed: str, code: int, words: str) -> None:
    ran = command(*typed.split())
    assert (ran.code, words in ran.error) == (code, True), ran.err


def test_a_fifo_or_a_device_as_a_photo_is_a_row(command: Command) -> None:
    ran = command("infer", "x.jpg", "/dev/zero", "--engine", "exact", "--format", "jsonl")
    assert ran.code == 3
    assert len(ran.out.splitlines()) == 2
    assert all('"error"' in line for line in ran.out.splitlines())
