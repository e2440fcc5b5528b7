"""SIGTERM: what a process leaves behind, says, and ends with. The standard error is in tests/cli."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from contextlib import suppress
from tempfile import TemporaryDirectory
from alexnet_deploy.machine.process import ended_by_sigterm

def term():
    os.kill(os.getpid(), signal.SIGTERM)

@ended_by_sigterm()
def run():
    with TemporaryDirectory():
        exec(sys.argv[1])

if sys.argv[2:]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
run()
"""


@pytest.mark.parametrize(
    ("work", "ignores", "code", "said"),
    [
        ("term()", False, 128 + signal.SIGTERM, "ended by SIGTERM\n"),
        ("term()", True, 0, ""),
        ("sys.exit(3)", False, 3, ""),
        ("sys.stderr = None; term()", False, 128 + signal.SIGTERM, ""),
    ],
)
def test_the_end_is_in_order(work: str, ignores: bool, code: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, work, *["ignores"] * ignores]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
    assert list(tmp_path.iterdir()) == []


def test_the_second_one_ends_it_at_once(tmp_path: Path) -> None:
    work = "with suppress(SystemExit): term()\nterm()"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, work], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, b"", b"")
