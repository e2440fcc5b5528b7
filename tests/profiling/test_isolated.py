"""A process of its own: what goes in and comes back, and how it may end."""

from __future__ import annotations

import operator
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
from tests.helpers.models.onnx_models import TINY_CONTRACT


def same(engine: Engine) -> Engine:
    """What was sent."""
    print("noise of a library", flush=True)
    return engine


def raise_ours(message: str) -> None:
    raise ArtifactError(message)


def modules() -> dict[str, str]:
    """Where the modules of the process come from."""
    return {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}


@pytest.fixture
def process() -> Iterator[IsolatedProcess]:
    with IsolatedProcess("tiny") as started:
        yield started


def test_dataclasses_and_paths_go_there_and_back(capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan("sm89.plan", "tensorrt", "11.4", "sm89")
    odd = Path(os.fsdecode(b"no text \xff/model.onnx"))
    given = Engine("ä", odd, TINY_CONTRACT, "int8", BatchProfile(1, 2, 4), ((plan, Path("x/sm89.plan")),))
    with IsolatedProcess("tiny") as process:
        assert process.call(same, given) == given
    said = capfd.readouterr()
    assert said.out == "", "the standard output is for results"
    assert "noise of a library" in said.err


def test_its_environment_has_more_than_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    with IsolatedProcess("tiny", environment={"MORE": "2"}) as process:
        assert [process.call(os.getenv, name) for name in ("OURS", "MORE")] == ["1", "2"]
    assert "MORE" not in os.environ


def test_an_error_over_there_is_the_same_error_here_and_it_goes_on(process: IsolatedProcess) -> None:
    before = process.call(os.getpid)
    with pytest.raises(ArtifactError, match=r"^x: is damaged$"):
        process.call(raise_ours, "x: is damaged")
    assert process.call(os.getpid) == before != os.getpid()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"^tiny: .* was killed \(SIGKILL\), probably for lack of memory; free some, or choose a"),
        (signal.SIGSEGV, r"^tiny: .* ended by SIGSEGV; try another `runtime`$"),
        (signal.SIGABRT, r"^tiny: .* ended by SIGABRT; try another `runtime`$"),
    ],
)
def test_a_killed_or_crashed_process_is_one_line_with_subject_and_signal(
    process: IsolatedProcess, number: signal.Signals, message: str
) -> None:
    for _ in range(2):  # a call to the dead is answered alike
        with pytest.raises(UnavailableError, match=message):
            process.call(signal.raise_signal, number)


def test_a_bug_over_there_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    message = "tiny: the process that measured it ended with code 1; see its messages"
    with pytest.raises(UnavailableError, match=message), IsolatedProcess("tiny") as process:
        process.call(operator.truediv, 1, 0)
    assert "ZeroDivisionError: division by zero" in capfd.readouterr().err


def test_ctrl_c_here_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), IsolatedProcess("tiny") as process:
        number = process.call(os.getpid)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_ctrl_c_over_there_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """The terminal sends it to both; the other one ends by it without a word, and this one even if it ignores it."""
    with pytest.raises(KeyboardInterrupt), IsolatedProcess("tiny") as process:
        process.call(signal.raise_signal, signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It comes before the process can say how it wants to end, in its first import."""
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        environment = {"PYTHONPATH": str(tmp_path)}
        with pytest.raises(KeyboardInterrupt), IsolatedProcess("tiny", environment) as process:
            process.call(os.getpid)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_it_ends_with_the_process_that_waits_for_it() -> None:
    """Both hold the pipe that is read here; it ends when the last of them is gone."""
    busy = "import os, time; os.write(2, b'started\\n'); time.sleep(3600)"
    waiting = (
        "from alexnet_deploy.profiling.isolated import IsolatedProcess\n"
        f"with IsolatedProcess('tiny') as process: process.call(exec, {busy!r})"
    )
    with subprocess.Popen([sys.executable, "-c", waiting], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"started\n"
        process.kill()
        process.communicate(timeout=60)


def test_modules_of_the_current_folder_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("raise ImportError('not that one')\n")
    monkeypatch.chdir(tmp_path)
    with IsolatedProcess("tiny") as process:
        assert not any(file.startswith(str(tmp_path)) for file in process.call(modules).values())
