"""An engine under MLPerf's LoadGen, in a process of its own, and the handle by which another one drives it.

LoadGen is C++ with threads of its own. Whatever fails inside one of its callbacks, or a log file that it cannot open,
ends its process by ``abort``; so it gets one to itself, and what fails there is sent across before that process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self, get_args

import mlperf_loadgen

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import DeployError, UnavailableError
from alexnet_deploy.machine.watch import Reading, watch_for
from alexnet_deploy.profiling.latency import Latency, measure
from alexnet_deploy.profiling.mlperf.system import SAMPLES_A_QUERY, Samples, Streams
from alexnet_deploy.runtime.select import open_runner

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

MIN_QUERIES = 662
"""The fewest from which LoadGen estimates a 99th percentile with 99 % confidence; so in mlperf.conf for MultiStream."""


@dataclass(frozen=True, slots=True)
class System:
    """What is measured. Without ``files`` the images are random pixels."""

    engine: Engine
    runtime: str = "auto"
    threads: int | None = None
    streams: int = 1
    files: tuple[Path, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of LoadGen. ``output`` is an existing folder for its logs."""

    scenario: Scenario
    accuracy: bool
    rate: float
    """Queries a second (Offline: images): those that Server issues, elsewhere those that LoadGen prepares for."""
    max_batch: int
    min_duration_s: float
    latency_bound_ms: float
    output: Path


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves beside LoadGen's logs."""

    unreadable: dict[int, str]
    """By number of the image, why it could not be read."""
    readings: tuple[Reading, Reading]
    """Of the machine, before the run and after it: LoadGen does not know who else was at work."""


@dataclass(frozen=True, slots=True)
class _Measure:
    batch: int
    concurrency: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """What runs the engine, and why the runtimes before it do not; the first thing that the process says."""

    description: str
    passed_over: tuple[str, ...]
    images_at_once: int
    """In memory, of ``image_bytes`` each."""
    image_bytes: int


def _end(link: Connection, exc: BaseException) -> None:
    """Tell what failed and leave, past LoadGen, which cannot be stopped from within."""
    if isinstance(exc, DeployError):
        link.send(exc)
    else:
        traceback.print_exception(exc)
    sys.stderr.flush()
    os._exit(1)


def _end_with_parent() -> None:
    """However the parent ends: an orphan in the middle of a run would take the cores for minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _serve(system: System, link: Connection) -> None:
    """The process: open the engine, then do what the link asks for until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it here and now: no Python runs inside LoadGen
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        opened = open_runner(system.engine, system.runtime, threads=system.threads, streams=system.streams)
        runners = [opened.runner, *(opened.runner.fork() for _ in range(system.streams - 1))]
        samples = Samples(system.files, opened.runner.contract.preprocessing, system.seed)
        streams = Streams(runners, samples, partial(_end, link))
        watch = watch_for(opened.runner.description)
        link.send(Ready(opened.runner.description, opened.passed_over, samples.at_once, samples.image_bytes))
        while True:
            request: _Measure | Run = link.recv()
            if isinstance(request, _Measure):
                link.send(measure(opened.runner, **dataclasses.asdict(request)))
            else:
                before = watch.read()
                _load(request, system.seed, samples, streams, link)
                link.send(RunResult(dict(samples.unreadable), (before, watch.read())))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # whoever asked is done, or gone
    except BaseException as exc:
        _end(link, exc)


def _load(run: Run, seed: int, samples: Samples, streams: Streams, link: Connection) -> None:
    def guarded(callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(argument: Any) -> None:
            try:
                callback(argument)
            except BaseException as exc:
                _end(link, exc)

        return call

    streams.prepare(run.max_batch)
    sut = mlperf_loadgen.ConstructSUT(guarded(streams.issue), lambda: None)
    qsl = mlperf_loadgen.ConstructQSL(samples.total, samples.at_once, guarded(samples.load), lambda indices: None)
    logs = mlperf_loadgen.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = str(run.output)
    # No audit file: by default LoadGen obeys an audit.config that happens to stand in the current folder.
    mlperf_loadgen.StartTestWithLogSettings(sut, qsl, _settings(run, seed), logs, "")
    mlperf_loadgen.DestroyQSL(qsl)
    mlperf_loadgen.DestroySUT(sut)


def _settings(run: Run, seed: int) -> Any:
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, run.scenario)
    mode = mlperf_loadgen.TestMode
    settings.mode = mode.AccuracyOnly if run.accuracy else mode.PerformanceOnly
    settings.min_duration_ms = round(1000 * run.min_duration_s)
    settings.min_query_count = MIN_QUERIES
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = 1e9 / run.rate
    settings.multi_stream_samples_per_query = SAMPLES_A_QUERY
    settings.server_target_qps = settings.offline_expected_qps = run.rate
    settings.server_target_latency_ns = round(1e6 * run.latency_bound_ms)
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = seed
    return settings


class LoadGen:
    """The process, from outside: opened by ``with``, one request at a time.

    Every method raises what the process failed with where that is a DeployError, else UnavailableError.
    """

    def __init__(self, system: System) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of OpenVINO and torch
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(system, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the link

    def __enter__(self) -> Self:
        try:
            self.ready: Ready = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._link.close()
        self._process.kill()  # it holds nothing that outlives it
        self._process.join()

    def measure(self, *, batch: int, concurrency: int, duration_s: float) -> Latency:
        """What ``latency.measure`` finds there."""
        answer: Latency = self._asked(_Measure(batch, concurrency, duration_s))
        return answer

    def run(self, run: Run) -> RunResult:
        """Let LoadGen write its logs into ``run.output``."""
        answer: RunResult = self._asked(run)
        return answer

    def _asked(self, request: _Measure | Run) -> Any:
        with contextlib.suppress(BrokenPipeError):  # what it left to say is still there to read
            self._link.send(request)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._link.recv()
        except (EOFError, ConnectionResetError) as exc:
            self._process.join()
            raise UnavailableError(
                f"LoadGen's process ended with code {self._process.exitcode}; see what it said above, or free some "
                "memory, and run it again"
            ) from exc
        if isinstance(answer, DeployError):
            raise answer
        return answer
