"""The search by hand, and real runs of LoadGen on a tiny model."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError, UsageError
from alexnet_deploy.profiling.isolated import IsolatedProcess
from alexnet_deploy.profiling.mlperf.log import LOGS, read_summary
from alexnet_deploy.profiling.mlperf.run import MAX_RATES, SEARCH_PRECISION, find_highest_rate, run_scenarios
from alexnet_deploy.profiling.mlperf.settings import SCENARIOS, MlperfSettings
from alexnet_deploy.profiling.mlperf.system import PERFORMANCE_SAMPLES
from alexnet_deploy.profiling.mlperf.worker import open_system, run_loadgen
from tests.helpers.models.onnx_models import CLASSES, SIDE, Graph, tiny_engine


@given(limit=st.floats(20, 5000), start=st.floats(10, 10_000))
def test_the_search_ends_close_below_the_limit(limit: float, start: float) -> None:
    calls: list[float] = []

    def passes(rate: float) -> bool:
        calls.append(rate)
        return rate <= limit

    found = find_highest_rate(passes, start=start, floor=10)
    assert len(calls) <= MAX_RATES
    if start / 64 <= limit <= start * 10:  # what 14 rates reach, and bisect
        assert found is not None
        assert found <= limit < found * (1 + SEARCH_PRECISION) ** 1.01  # a float's rounding


def test_the_search_gives_up_at_the_floor_and_at_its_last_rate() -> None:
    calls: list[float] = []
    assert find_highest_rate(lambda rate: bool(calls.append(rate)), start=70, floor=10) is None
    assert calls == [70, 35, 17.5, 10]
    endless = find_highest_rate(lambda rate: True, start=1, floor=1)
    assert endless == pytest.approx(1.5 ** (MAX_RATES - 1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"concurrency": 0}, "`concurrency` 0: must be 1 or more"),
        ({"max_batch": 0}, "`max_batch` 0: must be 1 or more"),
        ({"min_duration_s": float("nan")}, "`min_duration_s` nans: must be"),
        ({"min_duration_s": 0.0}, "`min_duration_s` 0s: must be"),
        ({"latency_bound_ms": -1.0}, "`latency_bound_ms` -1ms: must be"),
        ({"seed": -1}, "`seed` -1: must be within 0..4294967295"),
        ({"seed": 2**32}, "`seed` 4294967296: must be"),
        ({"accuracy": True}, "`accuracy` needs `data`"),
    ],
)
def test_settings_check_themselves(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MlperfSettings(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("mlperf") / "tiny.onnx")


ON_ONNXRUNTIME = MlperfSettings(runtime="onnxruntime", threads=1, max_batch=4, min_duration_s=0.1)
QUICK = dataclasses.replace(ON_ONNXRUNTIME, concurrency=2, latency_bound_ms=8)


def test_all_scenarios_on_real_loadgen(engine: Engine, tmp_path: Path) -> None:
    said: list[str] = []
    report = run_scenarios(engine, SCENARIOS, QUICK, tmp_path, on_progress=lambda text, done, total: said.append(text))
    assert [result.scenario for result in report.results] == list(SCENARIOS)
    assert report.images == PERFORMANCE_SAMPLES
    assert [result.max_batch for result in report.results] == [1, 4, 4, 4]
    assert report.system.description.startswith("ONNX Runtime")
    single, multi, server, offline = report.results
    for result in report.results:
        assert result.summary is not None
        assert (result.summary.scenario, result.summary.mode) == (result.scenario, "PerformanceOnly")
        assert result.summary.unknown == ()
        assert result.summary.parameters["qsl_rng_seed"] == 0
        assert sorted(path.name for path in (tmp_path / result.scenario).iterdir()) == sorted(LOGS)
    for result in (single, multi, offline):  # nothing but their length can fail them, and that is seen to
        assert result.reasons == ()
    assert multi.summary is not None
    assert multi.summary.parameters["samples_per_query"] == 8
    assert server.summary is not None
    assert server.summary.valid == any(tried.valid for tried in server.search)
    assert server.summary.parameters["target_latency (ns)"] == 8e6
    passed = [tried.rate for tried in server.search if tried.valid]
    expected = max(passed) if passed else server.search[-1].rate
    assert server.summary.parameters["target_qps"] == pytest.approx(expected, rel=1e-4)  # printed with six digits
    assert sum(line.startswith("Server: ") for line in said) == len(server.search)


def test_the_end_of_its_process_and_of_its_disk_are_one_line(engine: Engine, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with IsolatedProcess("tiny") as process:
        process.call(open_system, engine, ON_ONNXRUNTIME, ())
        process.call(run_loadgen, "Offline", 100.0, 1, missing)  # LoadGen says nothing of a log that it cannot write
        with pytest.raises(ArtifactError, match="LoadGen did not write this log"):
            read_summary(missing)
        with pytest.raises(UnavailableError, match=r"tiny: .* was killed \(SIGKILL\)"):
            process.call(signal.raise_signal, signal.SIGKILL)


def test_a_model_that_fails_under_load_is_one_line(engine: Engine, tmp_path: Path) -> None:
    """Inside LoadGen: a row of a table, looked up by the batch; that of a batch of 4 does not exist."""
    g = Graph()
    batch = g.node("Shape", "pixels", start=0, end=1)
    row = g.node("Gather", g.constant(np.where(np.arange(64) == 4, 1000, 0)), batch)
    table = g.node("Gather", g.weight(100, CLASSES), g.node("Expand", row, batch))
    path = g.save(table, tmp_path / "table.onnx", ["N", SIDE, SIDE, 3], onnx.TensorProto.UINT8)
    with IsolatedProcess("table") as process:
        process.call(open_system, dataclasses.replace(engine, onnx_path=path), ON_ONNXRUNTIME, ())
        with pytest.raises(InputError, match=r"table\.onnx: fails on pixels"):
            process.call(run_loadgen, "Offline", 100.0, 4, tmp_path)
