"""An engine under MLPerf's LoadGen: the functions of its separate process.

LoadGen is C++ with its own threads. An error inside one of its callbacks, or a log file that it cannot open, ends the
process by ``abort``. So LoadGen has a process to itself, and an error there is sent before that process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.machine.watch import Reading, watch_for
from alexnet_deploy.profiling.isolated import end_with
from alexnet_deploy.profiling.latency import Latency, measure
from alexnet_deploy.profiling.mlperf.results import OpenSystem
from alexnet_deploy.profiling.mlperf.settings import MlperfSettings, Scenario
from alexnet_deploy.profiling.mlperf.system import SAMPLES_PER_QUERY, SampleLibrary, SystemUnderTest
from alexnet_deploy.runtime.select import open_runner

MIN_QUERIES = 662
"""The fewest from which LoadGen estimates a 99th percentile with 99 % confidence; so in mlperf.conf for MultiStream."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The result of a run besides LoadGen's logs."""

    unreadable: dict[int, str]
    """By number of the image, the reason that it could not be read."""
    readings: tuple[Reading, Reading]
    """Readings of the machine before and after the run: LoadGen does not notice other programs."""


class _Worker:
    """The engine of this process, and the images of LoadGen's queries."""

    def __init__(self, engine: Engine, settings: MlperfSettings, files: tuple[Path, ...]) -> None:
        self.settings = settings
        self.selected = open_runner(
            engine, settings.runtime, threads=settings.threads, concurrency=settings.concurrency
        )
        self.runner = self.selected.runner
        runners = [self.runner, *(self.runner.fork() for _ in range(settings.concurrency - 1))]
        self.samples = SampleLibrary(files, self.runner.contract.preprocessing, settings.seed)
        self.system = SystemUnderTest(runners, self.samples, end_with)
        self.watch = watch_for(self.runner.device)


_worker: _Worker
"""Of this process; ``open_system`` makes it."""


def open_system(engine: Engine, settings: MlperfSettings, files: tuple[Path, ...]) -> OpenSystem:
    """Open ``engine`` for the functions below; without ``files`` the images are random pixels."""
    global _worker
    _worker = _Worker(engine, settings, files)
    return OpenSystem(
        description=_worker.runner.description,
        passed_over=_worker.selected.passed_over,
        unused_gpu=_worker.selected.unused_gpu,
        images_at_once=_worker.samples.at_once,
        memory_bytes=_worker.samples.at_once * _worker.samples.image_bytes,
    )


def measure_latency(batch: int, concurrency: int, duration_s: float) -> Latency:
    """``latency.measure`` of the open engine."""
    return measure(_worker.runner, batch=batch, concurrency=concurrency, duration_s=duration_s)


def run_loadgen(scenario: Scenario, rate: float, max_batch: int, output: Path) -> RunOutcome:
    """Let LoadGen write its logs into the folder ``output``.

    ``rate`` is in queries per second (Offline: images): those that Server issues, in other scenarios those that LoadGen
    prepares for.
    """
    before = _worker.watch.read()
    _worker.system.prepare(max_batch)
    samples = _worker.samples
    sut = mlperf_loadgen.ConstructSUT(_guarded(_worker.system.issue), lambda: None)
    qsl = mlperf_loadgen.ConstructQSL(samples.total, samples.at_once, _guarded(samples.load), lambda indices: None)
    logs = mlperf_loadgen.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = str(output)
    # No audit file: by default LoadGen obeys an audit.config that happens to be in the current folder.
    mlperf_loadgen.StartTestWithLogSettings(sut, qsl, _test_settings(scenario, rate, _worker.settings), logs, "")
    mlperf_loadgen.DestroyQSL(qsl)
    mlperf_loadgen.DestroySUT(sut)
    return RunOutcome(dict(samples.unreadable), (before, _worker.watch.read()))


def _guarded(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """``callback`` for LoadGen; no exception may leave it."""

    def call(argument: Any) -> None:
        try:
            callback(argument)
        except BaseException as exc:
            end_with(exc)

    return call


def _test_settings(scenario: Scenario, rate: float, settings: MlperfSettings) -> Any:
    test = mlperf_loadgen.TestSettings()
    test.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    mode = mlperf_loadgen.TestMode
    test.mode = mode.AccuracyOnly if settings.accuracy else mode.PerformanceOnly
    test.min_duration_ms = round(1000 * settings.min_duration_s)
    test.min_query_count = MIN_QUERIES
    test.single_stream_expected_latency_ns = test.multi_stream_expected_latency_ns = 1e9 / rate
    test.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    test.server_target_qps = test.offline_expected_qps = rate
    test.server_target_latency_ns = round(1e6 * settings.latency_bound_ms)
    test.qsl_rng_seed = test.sample_index_rng_seed = test.schedule_rng_seed = settings.seed
    return test
