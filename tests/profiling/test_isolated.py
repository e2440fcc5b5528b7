"""One engine in a process of its own: what it answers, and how it may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.profiling import isolated
from alexnet_deploy.profiling.engine import EngineProfile, Settings, peak_rss_bytes, profile_here
from alexnet_deploy.profiling.isolated import profile_engine
from tests.helpers.onnx_models import CLASSES, SIDE, tiny_classifier

LABELS = tuple(f"{k}" for k in range(CLASSES))
CONTRACT = ModelContract("tiny", LABELS, LABELS, Preprocessing(SIDE, SIDE, "stretch", None))
SHORT = Settings(duration_s=0.001, warm_up_s=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tiny_classifier(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
    return Engine("tiny", path, CONTRACT, "fp32", BatchProfile(1, 2, 4))


@pytest.fixture(scope="module")
def profile(engine: Engine) -> EngineProfile:
    """Measured while this process has held 512 MiB more than it otherwise would."""
    np.ones(2**29, np.uint8)
    return profile_engine(engine, Settings((4, 1), 2, "openvino", 1, 0.01, 0, 30))


def test_every_batch_size_is_measured_in_the_order_asked(profile: EngineProfile) -> None:
    assert (profile.name, profile.precision, profile.passed_over) == ("tiny", "fp32", ())
    assert profile.runner.startswith("OpenVINO")
    assert [row.latency.batch for row in profile.rows] == [4, 1]
    assert all(row.latency.iterations == len(row.latency.samples_ns) >= 30 for row in profile.rows)
    assert all(row.latency.concurrency == 2 for row in profile.rows)
    assert profile.load_s > 0
    assert profile.first_call_ms > 0


def test_the_memory_is_that_of_the_other_process(profile: EngineProfile) -> None:
    """ru_maxrss would be handed on to it: the most that the process which started it has held."""
    mine = peak_rss_bytes()
    assert profile.peak_rss_bytes is not None
    assert mine is not None
    assert 2**24 < profile.peak_rss_bytes < mine - 2**28


def test_json_has_units_and_no_samples(profile: EngineProfile) -> None:
    raw = profile.to_dict()
    assert {"engine", "precision", "runner", "load_s", "first_call_ms", "peak_rss_bytes", "concurrency"} < set(raw)
    assert all(batch["p99_9_ms"] is None and "samples_ns" not in batch for batch in raw["batches"])
    assert [batch["mark"] for batch in raw["batches"]] == [row.mark for row in profile.rows]


def test_the_process_gets_the_engine_as_it_is() -> None:
    plan = Plan("sm89.plan", "tensorrt", "11.4", "sm89")
    given = Engine("ä", Path("x/model.onnx"), CONTRACT, "int8", BatchProfile(1, 2, 4), ((plan, Path("x/sm89.plan")),))
    assert isolated._engine_in(isolated._engine_out(given)) == given


def test_an_error_over_there_is_the_same_error_here(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff\xff no model")
    with pytest.raises(InputError, match=r"broken\.onnx: OpenVINO refuses it"):
        profile_engine(Engine("broken", broken, CONTRACT, "fp32", BatchProfile()), Settings(runtime="openvino"))
    with pytest.raises(UsageError, match="--runtime abacus: unknown"):
        profile_engine(engine, Settings(runtime="abacus"))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan("x.plan", "tensorrt_rtx", "0.0.1", "sm89"), "no CUDA device|built with tensorrt_rtx 0.0.1, here is"),
        (None, "holds no TensorRT plan; build one"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_there(engine: Engine, plan: Plan | None, reason: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    plans = () if plan is None else ((plan, engine.onnx_path),)
    other = Engine("other", engine.onnx_path, CONTRACT, "fp32", BatchProfile(), plans)
    with pytest.raises(UnavailableError, match=reason):
        profile_engine(other, Settings(runtime="tensorrt"))


@pytest.mark.parametrize("batch", [0, 5, 1000])
def test_a_batch_outside_the_profile_is_refused_before_anything_runs(
    engine: Engine, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(UsageError, match=f"--batch {batch}: (tiny has a profile of 1..4; choose within|takes 1 or)"):
        profile_engine(engine, Settings((1, batch)))


def test_an_onnx_frozen_to_a_batch_has_that_profile(tmp_path: Path) -> None:
    frozen = Engine("frozen", tiny_classifier(tmp_path / "frozen.onnx", batch=2), CONTRACT, "fp32", None)
    with pytest.raises(UsageError, match=r"--batch 4: frozen has a profile of 2\.\.2; .*export it for any batch"):
        profile_engine(frozen, Settings((2, 4)))
    assert profile_here(frozen, Settings((2,), duration_s=1e-3, warm_up_s=0)).rows[0].latency.batch == 2


def test_more_than_the_memory_holds_is_one_line(tmp_path: Path) -> None:
    contract = ModelContract("tiny", LABELS, LABELS, Preprocessing(4096, 4096, "stretch", None))
    free = Engine("tiny", tiny_classifier(tmp_path / "tiny.onnx", side="S"), contract, "fp32", None)
    with pytest.raises(UnavailableError, match="tiny: batch 100000000 does not fit into memory; choose a smaller"):
        profile_engine(free, Settings((100_000_000,)))


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[subprocess.Popen[str]], None]], list[int]]:
    """Do something to the process as soon as it has started; the list is its process id."""

    def install(act: Callable[[subprocess.Popen[str]], None]) -> list[int]:
        pids: list[int] = []

        class Popen(subprocess.Popen[str]):
            def communicate(self, *arguments: Any, **options: Any) -> tuple[str, str]:
                pids.append(self.pid)
                act(self)
                return super().communicate(*arguments, **options)

        monkeypatch.setattr(subprocess, "Popen", Popen)
        return pids

    return install


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"^tiny: .* was killed \(SIGKILL\), as for lack of memory; free some, or lower --batch$"),
        (signal.SIGSEGV, r"^tiny: .* ended by SIGSEGV; try another --runtime$"),
        (signal.SIGABRT, r"^tiny: .* ended by SIGABRT; try another --runtime$"),
    ],
)
def test_a_killed_or_crashed_process_is_one_line_with_engine_and_signal(
    engine: Engine, then: Any, number: signal.Signals, message: str
) -> None:
    then(lambda process: process.send_signal(number))
    with pytest.raises(UnavailableError, match=message):
        profile_engine(engine, SHORT)


def test_a_bug_over_there_keeps_its_traceback(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(isolated, "_CHILD", "print('noise'); raise ZeroDivisionError('a bug')")
    with pytest.raises(UnavailableError, match="tiny: the process that measured it ended with code 1; what it said"):
        profile_engine(engine, SHORT)
    said = capfd.readouterr()
    assert "ZeroDivisionError: a bug" in said.err
    assert "noise" in said.err
    assert said.out == ""


def test_ctrl_c_here_ends_it(engine: Engine, then: Any) -> None:
    def interrupt(process: subprocess.Popen[str]) -> None:
        raise KeyboardInterrupt

    pids = then(interrupt)
    with pytest.raises(KeyboardInterrupt):
        profile_engine(engine, Settings(duration_s=600))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_ctrl_c_over_there_is_no_traceback(
    engine: Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal sends it to both; the other one ends by it without a word, and this one even if it ignores it."""
    interrupted = (
        "import os, signal; import alexnet_deploy.profiling.isolated as i; "
        "i.profile_here = lambda *_: os.kill(os.getpid(), signal.SIGINT); answer()"
    )
    monkeypatch.setattr(isolated, "_CHILD", isolated._CHILD.replace("answer()", interrupted))
    with pytest.raises(KeyboardInterrupt):
        profile_engine(engine, SHORT)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_it_ends_with_the_process_that_waits_for_it(engine: Engine) -> None:
    """Both hold the pipe that is read here; it ends when the last of them is gone."""
    measuring = (
        "import os; import alexnet_deploy.profiling.isolated as i; measure = i.profile_here; "
        "i.profile_here = lambda *given: (os.write(2, bytes([10])), measure(*given)); answer()"
    )
    waiting = (
        "import sys\n"
        "from alexnet_deploy.profiling import isolated\n"
        "from alexnet_deploy.profiling.engine import Settings\n"
        f"isolated._CHILD = isolated._CHILD.replace('answer()', {measuring!r})\n"
        "isolated.profile_engine(isolated._engine_in(eval(sys.argv[1])), Settings(duration_s=600))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", waiting, repr(isolated._engine_out(engine))], stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"\n"  # the other one measures
        process.kill()
        process.communicate(timeout=60)


def test_modules_of_the_current_folder_are_not_taken(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('not that one')\n")
    monkeypatch.chdir(tmp_path)
    assert profile_engine(engine, SHORT).rows
