"""A process of its own: what goes in and comes back, and how it may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import ArtifactError, UnavailableError
from alexnet_deploy.profiling.isolated import IsolatedProcess
from tests.helpers import remote
from tests.helpers.onnx_models import TINY_CONTRACT


@pytest.fixture
def process() -> Iterator[IsolatedProcess]:
    with IsolatedProcess("tiny") as started:
        yield started


def test_dataclasses_and_paths_go_there_and_back(capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan("sm89.plan", "tensorrt", "11.4", "sm89")
    odd = Path(os.fsdecode(b"no text \xff/model.onnx"))
    given = Engine("ä", odd, TINY_CONTRACT, "int8", BatchProfile(1, 2, 4), ((plan, Path("x/sm89.plan")),))
    with IsolatedProcess("tiny") as process:
        assert process.call(remote.same, given) == given
    said = capfd.readouterr()
    assert said.out == "", "the standard output is for results"
    assert "noise of a library" in said.err


def test_one_process_answers_several_calls(process: IsolatedProcess) -> None:
    first, second = (process.call(remote.process_id) for _ in range(2))
    assert first == second != os.getpid()


def test_an_error_over_there_is_the_same_error_here(process: IsolatedProcess) -> None:
    with pytest.raises(ArtifactError, match=r"^x: is damaged$"):
        process.call(remote.raise_ours, "x: is damaged")
    assert process.call(remote.process_id), "and it goes on"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"^tiny: .* was killed \(SIGKILL\), as for lack of memory; free some, or choose a smaller b"),
        (signal.SIGSEGV, r"^tiny: .* ended by SIGSEGV; try another `runtime`$"),
        (signal.SIGABRT, r"^tiny: .* ended by SIGABRT; try another `runtime`$"),
    ],
)
def test_a_killed_or_crashed_process_is_one_line_with_subject_and_signal(
    process: IsolatedProcess, number: signal.Signals, message: str
) -> None:
    for _ in range(2):  # a call to the dead is answered alike
        with pytest.raises(UnavailableError, match=message):
            process.call(remote.end_by_signal, number)


def test_a_bug_over_there_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    message = "tiny: the process that measured it ended with code 1; its messages"
    with pytest.raises(UnavailableError, match=message), IsolatedProcess("tiny") as process:
        process.call(remote.raise_bug)
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_ctrl_c_here_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), IsolatedProcess("tiny") as process:
        number = process.call(remote.process_id)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_ctrl_c_over_there_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """The terminal sends it to both; the other one ends by it without a word, and this one even if it ignores it."""
    with pytest.raises(KeyboardInterrupt), IsolatedProcess("tiny") as process:
        process.call(remote.end_by_signal, signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_it_ends_with_the_process_that_waits_for_it() -> None:
    """Both hold the pipe that is read here; it ends when the last of them is gone."""
    waiting = (
        "from alexnet_deploy.profiling.isolated import IsolatedProcess\n"
        "from tests.helpers import remote\n"
        "with IsolatedProcess('tiny') as process:\n"
        "    process.call(remote.run_forever)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", waiting], stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"started\n"
        process.kill()
        process.communicate(timeout=60)


def test_modules_of_the_current_folder_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('not that one')\n")
    monkeypatch.chdir(tmp_path)
    with IsolatedProcess("tiny") as process:
        assert not any(file.startswith(str(tmp_path)) for file in process.call(remote.modules).values())
