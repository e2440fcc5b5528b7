"""A standard output that is full, closed or left early: one line or none, never a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli.output.standard_output import checked_standard_output
from tests.helpers.repository import ROOT

_ELSEWHERE = "; redirect it, for example with > FILE\n"
FULL = "error: the standard output cannot be written (No space left on device)" + _ELSEWHERE
CLOSED = "error: the standard output is closed" + _ELSEWHERE


def shell(line: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$python`` is ours; ``$python -c "$program"`` runs ``program``."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {"python": f"{sys.executable} -W error", "PYTHONPATH": str(ROOT), "program": program}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)


OURS, UNBUFFERED = "$python -m alexnet_deploy", "PYTHONUNBUFFERED=1 $python -m alexnet_deploy"


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        *(
            (f"{program} {command} > /dev/full", 1, "", FULL)
            for program in (OURS, UNBUFFERED)
            for command in ("engines", "engines --json", "--help")
        ),
        ("$python -m training --help > /dev/full", 1, "", FULL),
        (f"{OURS} engines >&-", 1, "", CLOSED),
        (f"{OURS} engines --json >&-", 1, "", CLOSED),
        (f"{OURS} engines <&- >&- 2>&-", 1, "", ""),
        (f"{OURS} engines --json 2>&-", 0, "[]\n", ""),
        # The reader is gone for sure before a line is written: bash waits for it.
        (f"exec 3> >(:); wait $!; {OURS} engines --json >&3", 1, "", ""),
        (f"exec 3> >(:); wait $!; {UNBUFFERED} engines --json >&3", 1, "", ""),
    ],
)
def test_a_command_ends_with_one_line_or_none(
    line: str, code: int, out: str, err: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell(line)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_infer_writes_its_lines_until_the_disk_is_full() -> None:
    program = """
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.writers import open_writer
from alexnet_deploy.cli.output.standard_output import checked_standard_output
try:
    with checked_standard_output(), open_writer("jsonl", None, top_k=1) as write:
        write(Prediction("a.jpg", (Answer(0, "church", 1.0),)))
except UnavailableError as exc:
    raise SystemExit(f"error: {exc}")
"""
    done = shell('$python -c "$program" > /dev/full', program)
    assert (done.returncode, done.stderr) == (1, FULL)


@pytest.mark.parametrize("arguments", ["", "--format jsonl", "--format csv", "--format csv --outputs logits"])
def test_infer_ends_as_others_do_where_its_reader_has_left(arguments: str, here: Path) -> None:
    done = shell(f"exec 3> >(:); wait $!; {OURS} infer photos/val --engine alexnet-int8 {arguments} >&3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_what_the_encoding_lacks_is_written_as_escapes() -> None:
    program = """
from alexnet_deploy.cli.output.standard_output import checked_standard_output
with checked_standard_output():
    print("0.107 → 0.016 in Köln")
"""
    done = shell('PYTHONIOENCODING=latin-1 $python -c "$program" | iconv -f latin1 -t utf8', program)
    assert (done.stdout, done.stderr) == ("0.107 \\u2192 0.016 in Köln\n", "")


def test_a_closed_number_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    program = f"""
import os
from alexnet_deploy.cli.output.standard_output import checked_standard_output
with checked_standard_output(), open({str(tmp_path / "model")!r}, "wb") as file:
    os.write(2, b"what a library says")
"""
    assert shell('$python -c "$program" <&- >&- 2>&-', program).returncode == 0
    assert (tmp_path / "model").read_bytes() == b""


def test_an_error_on_its_way_is_not_hidden_by_a_reader_that_left() -> None:
    program = """
from alexnet_deploy.cli.output.standard_output import checked_standard_output
try:
    with checked_standard_output():
        print("a table")
        raise ValueError("the gate failed")
except ValueError as exc:
    raise SystemExit(str(exc))
"""
    done = shell('exec 3> >(:); wait $!; $python -c "$program" >&3', program)
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
