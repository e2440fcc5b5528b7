"""A standard output that is full, closed or left early: one line or none, never a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli.standard_output import checked_standard_output
from tests.helpers.repository import ROOT

FULL = (
    "error: the standard output cannot be written (No space left on device); send it to another place, such as > FILE"
)
CLOSED = "error: the standard output is closed; send it to another place, such as > FILE"


def shell(line: str, *, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$python`` is ours; the code is that of the first command of a pipe."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {"python": f"{sys.executable} -W error", "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    command = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nothing")
class TestCommands:
    @pytest.mark.parametrize("unbuffered", [False, True])
    @pytest.mark.parametrize("command", ["engines", "engines --json", "--help"])
    def test_a_full_disk_is_one_line(self, command: str, unbuffered: bool) -> None:
        done = shell(f"$python -m alexnet_deploy {command} > /dev/full", unbuffered=unbuffered)
        assert (done.returncode, done.stderr.splitlines()) == (1, [FULL])

    def test_so_it_is_in_training(self) -> None:
        done = shell("$python -m training --help > /dev/full")
        assert (done.returncode, done.stderr.splitlines()) == (1, [FULL])

    @pytest.mark.parametrize("command", ["engines", "engines --json"])
    def test_a_closed_output_is_one_line(self, command: str) -> None:
        done = shell(f"$python -m alexnet_deploy {command} >&-")
        assert (done.returncode, done.stderr.splitlines()) == (1, [CLOSED])

    def test_all_three_may_be_closed(self) -> None:
        done = shell("$python -m alexnet_deploy engines <&- >&- 2>&-")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")

    def test_a_closed_standard_error_costs_what_would_go_there(self) -> None:
        done = shell("$python -m alexnet_deploy engines --json 2>&-")
        assert (done.returncode, done.stdout) == (0, "[]\n")

    @pytest.mark.parametrize("unbuffered", [False, True])
    def test_a_reader_that_has_left_is_nothing_to_talk_about(self, unbuffered: bool) -> None:
        # The reader is gone for sure before a line is written: bash waits for it.
        line = "exec 3> >(:); wait $!; $python -m alexnet_deploy engines --json >&3"
        done = shell(line, unbuffered=unbuffered)
        assert (done.returncode, done.stderr) == (1, "")


def test_infer_writes_its_lines_until_the_disk_is_full(tmp_path: Path) -> None:
    program = """
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.writers import open_writer
from alexnet_deploy.cli.standard_output import checked_standard_output
try:
    with checked_standard_output(), open_writer("jsonl", None, top_k=1) as write:
        write(Prediction("a.jpg", (Answer(0, "church", 1.0),)))
except UnavailableError as exc:
    raise SystemExit(f"error: {exc}")
"""
    (tmp_path / "program.py").write_text(program)
    done = shell(f"$python {tmp_path}/program.py > /dev/full")
    assert (done.returncode, done.stderr.splitlines()) == (1, [FULL])


def test_a_closed_number_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    program = f"""
import os
from alexnet_deploy.cli.standard_output import checked_standard_output
with checked_standard_output(), open({str(tmp_path / "model")!r}, "wb") as file:
    os.write(2, b"what a library says")
"""
    (tmp_path / "program.py").write_text(program)
    assert shell(f"$python {tmp_path}/program.py <&- >&- 2>&-").returncode == 0
    assert (tmp_path / "model").read_bytes() == b""


def test_an_error_on_its_way_is_not_hidden_by_a_reader_that_left(tmp_path: Path) -> None:
    program = """
from alexnet_deploy.cli.standard_output import checked_standard_output
try:
    with checked_standard_output():
        print("a table")
        raise ValueError("the gate failed")
except ValueError as exc:
    raise SystemExit(str(exc))
"""
    (tmp_path / "program.py").write_text(program)
    done = shell(f"exec 3> >(:); wait $!; $python {tmp_path}/program.py >&3")
    assert (done.returncode, done.stderr) == (1, "the gate failed\n")


def test_an_output_of_the_callers_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    with checked_standard_output():
        print("here")
    assert own.getvalue() == "here\n"


def test_text_is_spelt_as_before_and_stands_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", end=" ")
    with checked_standard_output():
        print("Köln", end=" ")
    print("after", end="")
    sys.stdout.flush()
    assert capfd.readouterr().out == "before Köln after"
