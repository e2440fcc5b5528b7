"""The best bundle of a store within bounds, by what ``report`` measured.

The rule: of the bundles that meet every bound, the fastest; of those that one run does not tell apart from it, the
smallest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from alexnet_deploy.bundle.manifest import Manifest, list_bundles, load_manifest, verify
from alexnet_deploy.errors import ArtifactError, ProofError, UsageError
from alexnet_deploy.machine.watch import describe_machine
from alexnet_deploy.profiling.steady import MAX_SPREAD
from alexnet_deploy.report.data import EngineReport, LatencyRun, Report, run_at

Statistic = Literal["median", "p90", "p95", "p99"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

EPSILON = 1e-9
"""Points. 3 of 1000 images are 0.3 points, whatever the binary fractions say."""
_MS = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}  # micro sign and Greek mu
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a bundle must keep to; None: does not matter. ``confident``: the drop's 95 % interval must, too."""

    max_ms: float | None = None
    max_drop: float | None = None
    """Points of top-1 below the report's first engine, the most precise one."""
    max_bytes: float | None = None
    batch: int = 1
    statistic: Statistic = "median"
    confident: bool = False

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:  # false for NaN
            raise UsageError(f"--max-drop {self.max_drop:g}: takes points of top-1 accuracy within 0..100, such as 0.5")
        if self.confident and self.max_drop is None:
            raise UsageError("--confident has no use without --max-drop; add it")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A bundle that is not the best one, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best bundle; ``warnings`` say what its numbers cannot be trusted for."""

    engine: EngineReport
    run: LatencyRun
    reason: str
    passed_over: tuple[PassedOver, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Miss:
    """One bound that a bundle does not meet; ``excess`` is how far off it is, in bounds."""

    text: str
    excess: float


def parse_ms(text: str, flag: str = "--max-latency") -> float:
    """Milliseconds of ``5ms``, ``0.005s`` or ``800us``; UsageError names ``flag``."""
    return _quantity(text, _MS, f"{flag} {text}: takes a time above 0 with its unit, such as 5ms, 800us or 0.005s")


def parse_bytes(text: str, flag: str = "--max-size") -> float:
    """Bytes of ``10MiB``, ``500kB`` or ``2000000B``; UsageError names ``flag``."""
    return _quantity(text, _BYTES, f"{flag} {text}: takes a size above 0 with its unit, such as 10MiB, 500kB or 1GB")


def _quantity(text: str, units: Mapping[str, float], message: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-zµμ]+)\s*", text, re.ASCII)
    factor = None if match is None else units.get(match[2])
    value = 0.0 if match is None or factor is None else float(match[1]) * factor
    if not 0 < value < math.inf:
        raise UsageError(message)
    return value


def check_fresh(report: Report, store: Path, source: Path) -> tuple[str, ...]:
    """Names of the report's bundles that are in ``store``, unchanged since ``source`` was measured.

    Raises ArtifactError where one was built anew since, or its files were edited.
    """
    there = []
    for engine in report.engines:
        directory = store / engine.name
        if not directory.is_dir():
            continue
        _, files = load_manifest(directory)
        record = files.get(engine.file)
        if record is None or record.sha256 != engine.file_sha256:
            raise ArtifactError(
                f"{source}: {engine.name} was built anew since it was measured ({engine.file} has another SHA-256); "
                "measure again: alexnet-deploy report --data FOLDER"
            )
        verify(directory, only={engine.file})
        there.append(engine.name)
    return tuple(there)


def recommend(report: Report, store: Path, bounds: Bounds, source: Path) -> Recommendation:
    """The bundle of ``store`` that the rule above names; ``source`` is where ``report`` was read from.

    Raises UsageError for a batch size that was not measured, ArtifactError where the report is of other files than
    the store's, ProofError where no bundle meets the bounds: it names the closest.
    """
    if bounds.batch not in report.batches():
        measured = ", ".join(map(str, report.batches())) or "no latency at all"
        raise UsageError(f"--batch {bounds.batch}: {source} measured {measured}; choose one of them, or measure again")
    there = check_fresh(report, store, source)
    passed_over: dict[str, str] = {}
    misses: dict[str, list[_Miss]] = {}
    doubts: dict[str, list[str]] = {}
    ms: dict[str, float] = {}
    by_name = {engine.name: engine for engine in report.engines}
    for engine in report.engines:
        run = run_at(engine, bounds.batch)
        value = None if run is None else statistic_ms(run, bounds.statistic)
        if engine.name not in there:
            passed_over[engine.name] = f"is no longer in {store}/"
        elif run is None or value is None:
            passed_over[engine.name] = (
                f"was not timed at batch {bounds.batch}"
                if run is None
                else f"has too few samples for {bounds.statistic}"
            )
        else:
            ms[engine.name] = value
            misses[engine.name] = _misses(engine, value, bounds)
            doubts[engine.name] = _doubts(run) if bounds.max_ms is not None and value > bounds.max_ms else []
    fit = [name for name in ms if not misses[name]]
    if not fit:
        raise ProofError(_nothing(misses, passed_over, source, doubts))
    fastest = min(ms[name] for name in fit)
    tied = [name for name in fit if ms[name] <= fastest * (1 + MAX_SPREAD)]
    best = min(tied, key=lambda name: (by_name[name].file_bytes, ms[name], name))
    for name, missed in misses.items():
        if missed:
            passed_over[name] = "; ".join(miss.text for miss in missed)
        elif name in tied and name != best:
            passed_over[name] = f"as fast ({ms[name]:.3g} ms) and no smaller ({mib(by_name[name].file_bytes)})"
        elif name != best:
            passed_over[name] = f"slower: {ms[name]:.3g} ms"
    for directory, manifest in list_bundles(store):
        if directory.name not in by_name:
            unread = not isinstance(manifest, Manifest)
            passed_over[directory.name] = "cannot be read" if unread else f"is not in {source}; measure again"
    run = run_at(by_name[best], bounds.batch)
    assert run is not None  # it is among those that were timed
    return Recommendation(
        engine=by_name[best],
        run=run,
        reason=_reason(len(fit), len(tied), bounds),
        passed_over=tuple(PassedOver(name, why) for name, why in passed_over.items()),
        warnings=_warnings(by_name[best], run),
    )


def elsewhere(report: Report, source: Path) -> str | None:
    """A sentence where ``report`` is of another machine than this one, whose latencies say little here."""
    here, there = describe_machine(), report.machine
    if (here["cpu"], here["cores"]) == (there.cpu, there.cores):
        return None
    return (
        f"{source} was measured on {there.cpu}, {there.cores} cores; this is {here['cpu']}, {here['cores']} cores: "
        "its latencies may not hold here"
    )


def statistic_ms(run: LatencyRun, statistic: Statistic) -> float | None:
    """One of the numbers of a run; None where it has too few samples for it."""
    get: Callable[[LatencyRun], float | None] = {
        "median": lambda r: r.median_ms, "p90": lambda r: r.p90_ms, "p95": lambda r: r.p95_ms, "p99": lambda r: r.p99_ms
    }[statistic]  # fmt: skip
    return get(run)


def mib(count: float) -> str:
    """A size for people."""
    return f"{count / 2**20:.3g} MiB"


def _misses(engine: EngineReport, ms: float, bounds: Bounds) -> list[_Miss]:
    found = []
    if bounds.max_ms is not None and ms > bounds.max_ms:
        found.append(_Miss(f"too slow: {ms:.3g} ms, allowed are {bounds.max_ms:g}", ms / bounds.max_ms - 1))
    if bounds.max_drop is not None:
        drop, what = drop_points(engine, confident=bounds.confident)
        if drop > bounds.max_drop + EPSILON:
            least = max(bounds.max_drop, 0.1)  # of a bound of 0 everything is infinitely far off
            text = f"{what} {drop:.2f} points of top-1, allowed are {bounds.max_drop:g}"
            found.append(_Miss(text, (drop - bounds.max_drop) / least))
    if bounds.max_bytes is not None and engine.file_bytes > bounds.max_bytes:
        text = f"too large: {mib(engine.file_bytes)}, allowed are {mib(bounds.max_bytes)}"
        found.append(_Miss(text, engine.file_bytes / bounds.max_bytes - 1))
    return found


def drop_points(engine: EngineReport, *, confident: bool) -> tuple[float, str]:
    """Points of top-1 below the first engine, or the most that the 95 % interval allows, and the verb for it."""
    pair = engine.beside_first
    if pair is None:
        return 0.0, "loses"
    return (-pair.points_interval.low, "may lose") if confident else (-pair.points, "loses")


def _nothing(
    misses: Mapping[str, list[_Miss]], passed_over: Mapping[str, str], source: Path, doubts: Mapping[str, list[str]]
) -> str:
    if not misses:
        name, why = next(iter(passed_over.items()))
        return f"{source}: no bundle can be judged ({name} {why}); measure again: alexnet-deploy report --data FOLDER"
    closest = min(misses, key=lambda name: (len(misses[name]), max(miss.excess for miss in misses[name]), name))
    others = [f"{name} {why}" for name, why in passed_over.items()]
    return (
        f"none of the {len(misses)} bundles that can be judged meets the bounds; the closest is {closest} "
        f"({'; '.join([*(miss.text for miss in misses[closest]), *doubts[closest]])}): widen that bound, or build "
        "another engine" + (f" ({'; '.join(others)})" if others else "")
    )


def _reason(fit: int, tied: int, bounds: Bounds) -> str:
    asked = [
        f"{bounds.statistic} within {bounds.max_ms:g} ms at batch {bounds.batch}" if bounds.max_ms else "",
        "" if bounds.max_drop is None else f"top-1 drop within {bounds.max_drop:g} points"
        + (" with 95 % confidence" if bounds.confident else ""),
        f"size within {mib(bounds.max_bytes)}" if bounds.max_bytes else "",
    ]  # fmt: skip
    within = ", ".join(filter(None, asked)) or "no bound"
    what = f"smallest of {tied} that are equally fast" if tied > 1 else "fastest"
    return f"the {what}, of {fit} that {'meets' if fit == 1 else 'meet'} the bounds ({within})"


def _warnings(engine: EngineReport, run: LatencyRun) -> tuple[str, ...]:
    found = _doubts(run)
    if engine.calibration_images:
        found.append(f"{engine.calibration_images} of the report's images calibrated it: its accuracy is flattered")
    return tuple(found)


def _doubts(run: LatencyRun) -> list[str]:
    if not run.steady and not run.invalid:
        return ["its latency did not settle; measure again on a machine at rest"]
    return [f"its latency is not to be trusted: {cause}" for cause in run.invalid]
