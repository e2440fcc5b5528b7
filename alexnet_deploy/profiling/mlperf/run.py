"""An engine in MLPerf's scenarios, through MLPerf's own LoadGen: latency, throughput, and accuracy under load.

Each scenario is a way in which queries arrive (github.com/mlcommons/inference_policies, inference_rules.adoc).
SingleStream and MultiStream send the next query, of one image or of eight, when the last one is answered. Server sends
single images at random times (Poisson); its result is the highest rate at which the 99th percentile of the latency
stays within a bound. Offline sends everything at once.
"""

from __future__ import annotations

import importlib.metadata
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_directory, check_directory
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.watch import Reading, judge
from alexnet_deploy.profiling.isolated import IsolatedProcess
from alexnet_deploy.profiling.latency import Latency
from alexnet_deploy.profiling.mlperf.log import LOGS, Summary, read_answers, read_summary
from alexnet_deploy.profiling.mlperf.results import MlperfReport, RateTrial, ScenarioAccuracy, ScenarioResult
from alexnet_deploy.profiling.mlperf.settings import LARGEST_BATCH, MlperfSettings, Scenario
from alexnet_deploy.profiling.mlperf.system import PERFORMANCE_SAMPLES, SAMPLES_PER_QUERY, batch_sizes
from alexnet_deploy.profiling.mlperf.worker import measure_latency, open_system, run_loadgen
from alexnet_deploy.progress import Progress, no_progress

MEASURE_S = 0.3
"""Seconds per batch size for a first estimate of latency and throughput, which sets LoadGen's parameters."""
SEARCH_PRECISION = 0.025
"""The search ends when a passing and a failing rate are this close; runs hardly repeat better."""
MAX_RATES = 14
"""Maximum number of rates in a search: six to approach, and eight for bisection, which needs five or six."""


def run_scenarios(
    engine: Engine,
    scenarios: Sequence[Scenario],
    settings: MlperfSettings,
    output: Path,
    *,
    on_progress: Progress = no_progress,
) -> MlperfReport:
    """Run ``engine`` in ``scenarios``, one after the other; LoadGen's logs land in ``output/<scenario>/``.

    If no rate meets Server's bound, its result is the run with the lowest rate, INVALID; without a run, if a single
    image takes longer than the bound. ``on_progress`` gets a line of text for each run, and the number of scenarios
    done and in all.

    Raises InputError if the images cannot be used, the errors of ``open_runner``, and UnavailableError if LoadGen's
    process fails or, before anything is measured, if ``output`` cannot be written.
    """
    targets = {scenario: _target(output, scenario) for scenario in scenarios}
    labelled = (
        None
        if not settings.accuracy or settings.data is None
        else list_labelled(settings.data, engine.contract, engine.name)
    )
    files = labelled.files if labelled else _spread(settings.data)
    with IsolatedProcess(engine.name) as process:
        system = process.call(open_system, engine, settings, tuple(files))
        results: list[ScenarioResult] = []
        runs = _Runs(
            process, system.description, settings, labelled, lambda text: on_progress(text, len(results), len(targets))
        )
        for scenario, target in targets.items():
            results.append(runs.result(scenario, target))
    return MlperfReport(
        system=system,
        loadgen=importlib.metadata.version("mlcommons-loadgen"),
        images=len(files) if labelled else system.images_at_once,
        results=tuple(results),
    )


def _spread(data: Path | None) -> tuple[Path, ...]:
    """The images of the folder for a performance run, at most as many as fit, evenly from its classes."""
    files = [] if data is None else list(find_images([data]))
    count = min(len(files), PERFORMANCE_SAMPLES)
    return tuple(files[i * len(files) // count] for i in range(count))


def _target(output: Path, scenario: Scenario) -> Path:
    """The folder of a scenario's logs. UnavailableError if it cannot be written, InputError if it holds other files."""
    target = output / scenario
    check_directory(target)
    found = target.iterdir() if target.is_dir() else ()
    others = sorted(path.name for path in found if path.name not in LOGS or not path.is_file())
    if others:
        raise InputError(f"{target}: holds {others[0]}, which is not a LoadGen log; choose another `output`")
    return target


@dataclass
class _Runs:
    """The runs of one engine."""

    process: IsolatedProcess
    description: str
    settings: MlperfSettings
    labelled: LabelledImages | None
    report: Callable[[str], None]
    readings: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report(f"measuring with {self.description}")
        self.one = self._measure(1)

    def result(self, scenario: Scenario, target: Path) -> ScenarioResult:
        self.readings.clear()
        if self.labelled is not None:
            return self._accuracy(self.labelled, scenario, target)
        found = self._server(target) if scenario == "Server" else self._performance(scenario, target)
        if found.unmet is not None:
            return found
        return replace(found, disturbed=judge(self.readings, cores=cores()).invalid)

    def _accuracy(self, labelled: LabelledImages, scenario: Scenario, target: Path) -> ScenarioResult:
        self.report(f"{scenario}: {len(labelled.files)} images, each once")
        # Half of its throughput: no queue grows, and accuracy needs no speed.
        with self._run(scenario, self.fastest[1] / 2) as (folder, unreadable):
            answer_N = read_answers(folder, len(labelled.files))
            _keep(folder, target)
        readable_N = np.isin(np.arange(len(answer_N)), list(unreadable), invert=True)
        right_N = answer_N == np.array(labelled.targets)
        found = ScenarioAccuracy(
            images=int(readable_N.sum()),
            right=int(right_N[readable_N].sum()),
            not_finite=int((answer_N[readable_N] == -1).sum()),
        )
        return ScenarioResult(scenario, self._max_batch(scenario), target, tuple(unreadable.values()), accuracy=found)

    def _performance(self, scenario: Scenario, target: Path) -> ScenarioResult:
        """LoadGen prepares queries in advance. A run that uses them up early is INVALID, and is repeated with more."""
        # Not less than it may reach; but surplus queries cost LoadGen memory, and time in Offline.
        if scenario == "SingleStream":
            rate = 1e3 / self.one.min_ms
        else:
            rate = self.fastest[1] * (1.1 if scenario == "Offline" else 1.5 / SAMPLES_PER_QUERY)
        for _ in range(3):
            self.report(f"{scenario}: {self.settings.min_duration_s:g} s")
            with self._run(scenario, rate) as (folder, unreadable):
                summary = read_summary(folder)
                _keep(folder, target)
            if summary.checks.get("Min duration satisfied") is not False:
                break
            rate *= 1.5
        return ScenarioResult(scenario, self._max_batch(scenario), target, tuple(unreadable.values()), summary)

    def _server(self, target: Path) -> ScenarioResult:
        bound_ms = self.settings.latency_bound_ms
        if self.one.median_ms >= bound_ms:
            unmet = (
                f"`latency_bound_ms` {bound_ms:g}ms: no rate meets it, one image alone takes {self.one.median_ms:.2f} "
                f"ms ({self.description}); raise the bound, or use a faster engine"
            )
            self.report(f"Server: not run, as one image alone takes {self.one.median_ms:.2f} ms")
            return ScenarioResult("Server", self.fastest[0], None, (), unmet=unmet)
        tries: list[RateTrial] = []
        best: tuple[Summary, dict[int, str]] | None = None

        def is_valid(rate: float) -> bool:
            nonlocal best
            with self._run("Server", rate) as (folder, unreadable):
                summary = read_summary(folder)
                # A rate that passes is higher than all earlier passing rates.
                if summary.valid or not any(known.valid for known in tries):
                    best = summary, unreadable
                    _keep(folder, target)
            tries.append(RateTrial(rate, summary.valid, summary.stats["99.00 percentile latency (ns)"] / 1e6))
            verdict = "VALID" if summary.valid else "INVALID"
            self.report(f"Server: {rate:.1f} queries/s: {verdict}, 99th percentile {tries[-1].p99_ms:.2f} ms")
            return summary.valid

        def passes(rate: float) -> bool:
            # A short disturbance must not exclude all higher rates: after a narrow failure the run is repeated.
            return is_valid(rate) or (tries[-1].p99_ms < 2 * bound_ms and is_valid(rate))

        find_highest_rate(passes, start=0.7 * self.fastest[1], floor=100 / self.one.median_ms)
        assert best is not None  # the search makes at least one run
        summary, unreadable = best
        return ScenarioResult(
            "Server", self.fastest[0], target, tuple(unreadable.values()), summary, search=tuple(tries)
        )

    @contextmanager
    def _run(self, scenario: Scenario, rate: float) -> Iterator[tuple[Path, dict[int, str]]]:
        """A folder with LoadGen's logs; by number, the images that cannot be read, with the reason."""
        with TemporaryDirectory() as scratch:
            outcome = self.process.call(run_loadgen, scenario, rate, self._max_batch(scenario), Path(scratch))
            self.readings += outcome.readings
            yield Path(scratch), outcome.unreadable

    def _max_batch(self, scenario: Scenario) -> int:
        return 1 if scenario == "SingleStream" else self.fastest[0]

    @cached_property
    def fastest(self) -> tuple[int, float]:
        """The batch size with the highest throughput, and the images per second of all concurrent calls with it."""
        asked = self.settings.max_batch
        sizes = batch_sizes(LARGEST_BATCH) if asked is None else (asked,)
        rates = {size: self._measure(size, self.settings.concurrency).images_per_s for size in sizes}
        size = max(rates, key=lambda size: rates[size])
        self.report(f"batches of {size} at most: {rates[size]:.1f} images/s")
        return size, rates[size]

    def _measure(self, batch: int, concurrency: int = 1) -> Latency:
        return self.process.call(measure_latency, batch, concurrency, MEASURE_S)


def find_highest_rate(passes: Callable[[float], bool], *, start: float, floor: float) -> float | None:
    """The highest rate found to pass, within ``SEARCH_PRECISION`` of one that fails; None if none passes.

    From ``start`` up by half, or down by half as far as ``floor``, until one passes and one fails; then bisection
    between them. ``MAX_RATES`` calls at most.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(MAX_RATES):
        if passes(rate):
            low = rate
        else:
            high = rate
        if low is None:
            if rate <= floor:
                break
            rate = max(rate / 2, floor)
        elif high is None:
            rate *= 1.5
        elif high <= low * (1 + SEARCH_PRECISION):
            break
        else:
            rate = math.sqrt(low * high)
    return low


def _keep(folder: Path, target: Path) -> None:
    with atomic_directory(target) as kept:
        for name in LOGS:
            shutil.copyfile(folder / name, kept / name)
