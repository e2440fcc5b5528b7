"""An engine in MLPerf's scenarios, through MLPerf's own LoadGen: latency, throughput, and accuracy under load.

Each scenario is a way in which queries arrive (github.com/mlcommons/inference_policies, inference_rules.adoc):
SingleStream and MultiStream send the next query, of one image or of eight, when the last is answered; Server sends
single images at random times, Poisson, and asks for the highest rate at which the 99th percentile of the latency stays
within a bound; Offline sends everything at once.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import InputError, ProofError, UsageError
from alexnet_deploy.files import atomic_directory, check_directory
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import Labelled, list_labelled
from alexnet_deploy.machine.watch import Reading, judge, usable_cpus
from alexnet_deploy.profiling.latency import Latency
from alexnet_deploy.profiling.mlperf.log import LOGS, Summary, read_answers, read_summary
from alexnet_deploy.profiling.mlperf.results import Accuracy, Report, Result, Try
from alexnet_deploy.profiling.mlperf.search import highest_passing
from alexnet_deploy.profiling.mlperf.system import PERFORMANCE_SAMPLES, SAMPLES_A_QUERY, batch_sizes
from alexnet_deploy.profiling.mlperf.worker import LoadGen, Run, Scenario, System

SUBMISSION_S = 600.0
"""The least duration of a performance run in a submission, by MLPerf's rules and its mlperf.conf."""
LATENCY_BOUND_MS = 15.0
"""Server's bound for ResNet-50 in MLPerf's rules; AlexNet is no benchmark of theirs and has none."""
MEASURE_S = 0.3
"""Seconds a batch size for a first idea of latency and throughput, from which LoadGen's settings come."""
LARGEST_BATCH = 32
"""That is tried: past it a CPU gains nothing, and a queue that long means a latency that no bound allows."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure."""

    data: Path | None = None
    accuracy: bool = False
    runtime: str = "auto"
    threads: int | None = None
    streams: int = 1
    max_batch: int | None = None
    """Images at once; None: as many as give the highest throughput, up to ``LARGEST_BATCH``."""
    latency_bound_ms: float = LATENCY_BOUND_MS
    min_duration_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value in (
            ("--concurrency", self.streams),
            ("--max-batch", 1 if self.max_batch is None else self.max_batch),
        ):
            if value < 1:
                raise UsageError(f"{flag} {value}: takes 1 or more")
        if not 0 < self.min_duration_s <= 24 * 3600:  # false for NaN
            raise UsageError(f"--duration-s {self.min_duration_s:g}: takes seconds above 0, a day at most")
        if not 0 < self.latency_bound_ms <= 1e6:
            raise UsageError(f"--latency-bound-ms {self.latency_bound_ms:g}: takes milliseconds above 0, such as 15")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: takes a whole number of 32 bits")
        if self.accuracy and self.data is None:
            raise UsageError("--accuracy needs --data, a folder with one folder of images a class")


def run_scenarios(
    engine: Engine,
    scenarios: Sequence[Scenario],
    options: Options,
    output: Path,
    *,
    on_progress: Progress = lambda said: None,
) -> Report:
    """Run ``engine`` in ``scenarios``, one after the other; LoadGen's logs land in ``output/<scenario>/``.

    Where Server's bound is met by no rate its result is the run with the lowest one, INVALID. Raises ProofError where
    a single image alone takes longer than the bound, InputError where the images are of no use, what ``open_runner``
    raises, UnavailableError where LoadGen's process fails and, before anything is measured, where ``output`` cannot be
    written.
    """
    targets = {scenario: _target(output, scenario) for scenario in scenarios}
    labelled = None if not options.accuracy or options.data is None else list_labelled(options.data, engine.contract)
    files = labelled.files if labelled else _spread(options.data)
    system = System(
        engine=engine,
        runtime=options.runtime,
        threads=options.threads,
        streams=options.streams,
        files=files,
        seed=options.seed,
    )
    with LoadGen(system) as loadgen:
        ready = loadgen.ready
        measuring = _Measuring(loadgen, options, labelled, on_progress)
        results = tuple(measuring.result(scenario, target) for scenario, target in targets.items())
    return Report(
        description=ready.description,
        passed_over=ready.passed_over,
        loadgen=importlib.metadata.version("mlcommons-loadgen"),
        images=len(files) if labelled else ready.images_at_once,
        memory_bytes=ready.images_at_once * ready.image_bytes,
        results=results,
    )


def _spread(data: Path | None) -> tuple[Path, ...]:
    """As many images of the folder as fit a performance run, evenly over its classes."""
    files = [] if data is None else list(find_images([data]))
    count = min(len(files), PERFORMANCE_SAMPLES)
    return tuple(files[i * len(files) // count] for i in range(count))


def _target(output: Path, scenario: Scenario) -> Path:
    """Where a scenario's logs go. UnavailableError where nothing can, InputError where something else would be lost."""
    target = output / scenario
    check_directory(target)
    foreign = sorted(path.name for path in target.iterdir() if path.name not in LOGS) if target.is_dir() else []
    if foreign:
        raise InputError(f"{target}: holds {foreign[0]}, which is no log of LoadGen's; choose another --output")
    return target


class _Measuring:
    """The runs of one engine."""

    def __init__(self, loadgen: LoadGen, options: Options, labelled: Labelled | None, on_progress: Progress) -> None:
        self._loadgen = loadgen
        self._options = options
        self._labelled = labelled
        self._on_progress = on_progress
        on_progress(f"measuring with {loadgen.ready.description}")
        self._readings: list[Reading] = []
        self._one = self._measure(1)

    def result(self, scenario: Scenario, target: Path) -> Result:
        self._readings.clear()
        if self._labelled is not None:
            return self._accuracy(self._labelled, scenario, target)
        found = self._server(target) if scenario == "Server" else self._performance(scenario, target)
        return replace(found, disturbed=judge(self._readings, cores=len(usable_cpus())).invalid)

    def _accuracy(self, labelled: Labelled, scenario: Scenario, target: Path) -> Result:
        self._on_progress(f"{scenario}: {len(labelled.files)} images, each once")
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            # Half of what it can take: no queue grows, and nobody waits for the sake of accuracy.
            unreadable = self._run(scenario, folder, self.fastest[1] / 2)
            answer_N = read_answers(folder, len(labelled.files))
            _keep(folder, target)
        readable_N = np.isin(np.arange(len(answer_N)), list(unreadable), invert=True)
        right_N = answer_N == np.array(labelled.targets)
        found = Accuracy(
            images=int(readable_N.sum()),
            right=int(right_N[readable_N].sum()),
            not_finite=int((answer_N[readable_N] == -1).sum()),
        )
        return Result(scenario, self._max_batch(scenario), target, tuple(unreadable.values()), accuracy=found)

    def _performance(self, scenario: Scenario, target: Path) -> Result:
        """LoadGen makes its queries up front, and a run that uses them up early is INVALID: then once more."""
        # Never less than it may reach: what is left over costs LoadGen memory, in Offline time as well.
        if scenario == "SingleStream":
            rate = 1e3 / self._one.min_ms
        else:
            rate = self.fastest[1] * (1.1 if scenario == "Offline" else 1.5 / SAMPLES_A_QUERY)
        for _ in range(3):
            self._on_progress(f"{scenario}: {self._options.min_duration_s:g} s")
            with TemporaryDirectory() as scratch:
                unreadable = self._run(scenario, Path(scratch), rate)
                summary = read_summary(Path(scratch))
                _keep(Path(scratch), target)
            if summary.checks.get("Min duration satisfied") is not False:
                break
            rate *= 1.5
        return Result(scenario, self._max_batch(scenario), target, tuple(unreadable.values()), summary)

    def _server(self, target: Path) -> Result:
        bound_ms = self._options.latency_bound_ms
        if self._one.median_ms >= bound_ms:
            raise ProofError(
                f"--latency-bound-ms {bound_ms:g}: no rate meets it, one image alone takes {self._one.median_ms:.2f} "
                f"ms ({self._loadgen.ready.description}); raise the bound, or take a faster engine"
            )
        tries: list[Try] = []
        best: tuple[Summary, dict[int, str]] | None = None

        def is_valid(rate: float) -> bool:
            nonlocal best
            with TemporaryDirectory() as scratch:
                unreadable = self._run("Server", Path(scratch), rate)
                summary = read_summary(Path(scratch))
                # A rate that passes is higher than all that passed before.
                if summary.valid or not any(known.valid for known in tries):
                    best = summary, unreadable
                    _keep(Path(scratch), target)
            tries.append(Try(rate, summary.valid, summary.stats["99.00 percentile latency (ns)"] / 1e6))
            verdict = "VALID" if summary.valid else "INVALID"
            self._on_progress(f"Server: {rate:.1f} queries/s: {verdict}, 99th percentile {tries[-1].p99_ms:.2f} ms")
            return summary.valid

        def passes(rate: float) -> bool:
            # A machine that was busy for a moment must not bar all rates above: what fails narrowly has a second run.
            return is_valid(rate) or (tries[-1].p99_ms < 2 * bound_ms and is_valid(rate))

        highest_passing(passes, start=0.7 * self.fastest[1], floor=100 / self._one.median_ms)
        assert best is not None  # the search makes at least one run
        summary, unreadable = best
        return Result("Server", self.fastest[0], target, tuple(unreadable.values()), summary, search=tuple(tries))

    def _run(self, scenario: Scenario, folder: Path, rate: float) -> dict[int, str]:
        options = self._options
        run = Run(
            scenario=scenario,
            accuracy=options.accuracy,
            rate=rate,
            max_batch=self._max_batch(scenario),
            min_duration_s=options.min_duration_s,
            latency_bound_ms=options.latency_bound_ms,
            output=folder,
        )
        ran = self._loadgen.run(run)
        self._readings += ran.readings
        return ran.unreadable

    def _max_batch(self, scenario: Scenario) -> int:
        return 1 if scenario == "SingleStream" else self.fastest[0]

    @cached_property
    def fastest(self) -> tuple[int, float]:
        """The batch size with the highest throughput, and the images a second that all streams reach with it."""
        asked = self._options.max_batch
        sizes = batch_sizes(LARGEST_BATCH) if asked is None else (asked,)
        rates = {size: self._measure(size, self._options.streams).images_per_s for size in sizes}
        size = max(rates, key=lambda size: rates[size])
        self._on_progress(f"batches of {size} at most: {rates[size]:.1f} images/s")
        return size, rates[size]

    def _measure(self, batch: int, concurrency: int = 1) -> Latency:
        return self._loadgen.measure(batch=batch, concurrency=concurrency, duration_s=MEASURE_S)


def _keep(folder: Path, target: Path) -> None:
    with atomic_directory(target) as kept:
        for name in LOGS:
            shutil.copyfile(folder / name, kept / name)
