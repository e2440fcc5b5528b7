"""A standard error that is full, or whose reader has left: lines are lost, and nothing else."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli.output.terminal import show_log
from alexnet_deploy.machine.process import losing_standard_error
from tests.cli.test_standard_output import OURS, UNBUFFERED, shell

# The reader is gone for sure before a line is written: bash waits for it.
LEFT = "exec 3> >(:); wait $!; {} 2>&3"
FULL = "{} 2> /dev/full"


@pytest.mark.parametrize("program", [OURS, UNBUFFERED])
@pytest.mark.parametrize("place", [FULL, LEFT])
def test_a_command_does_its_work_and_ends_as_ever(program: str, place: str, here: Path) -> None:
    """Its notes were lost before, and the file and the exit code with them."""
    done = shell(place.format(f"{program} infer photos/val --engine alexnet-int8 -o rows.jsonl"))
    assert done.returncode == 0
    assert len((here / "rows.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"{OURS} inspect none", 1),
        (f"{OURS} --none", 2),
        ("$python -m training none", 2),
        ("$python -m training train none --output run", 1),
    ],
)
@pytest.mark.parametrize("place", [FULL, LEFT])
def test_an_error_keeps_its_exit_code(command: str, code: int, place: str, here: Path) -> None:
    assert shell(place.format(command)).returncode == code


def test_a_bad_call_of_the_log_in_a_library_is_not_an_error_of_its_caller(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers.clear()
    try:
        show_log(verbose=False)
        logging.getLogger("library").error("%d images", "many")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        logging.getLogger("alexnet_deploy").setLevel(logging.NOTSET)
    assert "Logging error" in capsys.readouterr().err


class Notebook(io.TextIOBase):
    """As that of a Jupyter kernel, whose file is the terminal of the server."""

    encoding = "utf-8"

    def fileno(self) -> int:
        return 2


def test_one_of_the_callers_own_or_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    for stream in (own, Notebook(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with losing_standard_error():
            assert sys.stderr is stream


def test_text_stands_in_order_with_what_others_write(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", file=sys.stderr)
    with losing_standard_error():
        print("K\u00f6ln", end=" ", file=sys.stderr)
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "before\nK\u00f6ln after\n"
