"""The best bundle of a store within bounds, by the measurements of ``report``.

The rule: of the bundles that meet every bound, the fastest; of those that one run cannot distinguish from it, the
smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.manifest import Manifest, list_bundles, load_manifest, verify
from alexnet_deploy.errors import ArtifactError, ProofError, UsageError
from alexnet_deploy.evaluation.max_drop import holds_max_drop
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.profiling.engine import BatchResult
from alexnet_deploy.profiling.steady import MAX_SPREAD
from alexnet_deploy.report.data import EngineReport, Report
from alexnet_deploy.report.settings import Bounds, Statistic


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A bundle that is not the best one, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best bundle; ``warnings`` say why its numbers may be wrong."""

    engine: EngineReport
    row: BatchResult
    """Its latency at the batch size of the bounds."""
    reason: str
    passed_over: tuple[PassedOver, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Miss:
    """One bound that a bundle does not meet; ``excess`` is the distance, as a multiple of the bound."""

    text: str
    excess: float


def check_fresh(report: Report, store: Path, source: Path) -> tuple[str, ...]:
    """Return the names of the bundles in ``store`` that are unchanged since ``source`` was measured.

    Raises ArtifactError if one was built again since, or its files were edited.
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
                f"{source}: {engine.name} was built again since it was measured ({engine.file} has another SHA-256); "
                "measure again: alexnet-deploy report --data FOLDER"
            )
        verify(directory, only={engine.file})
        there.append(engine.name)
    return tuple(there)


def recommend(report: Report, store: Path, bounds: Bounds, source: Path) -> Recommendation:
    """Choose a bundle of ``store`` by the rule above; ``source`` is the file that ``report`` was read from.

    Raises UsageError for a batch size that was not measured, ArtifactError if the files of the store have changed
    since, ProofError with the closest bundle if none meets the bounds.
    """
    if bounds.batch not in report.batches():
        measured = ", ".join(map(str, report.batches())) or "no latency at all"
        raise UsageError(f"`batch` {bounds.batch}: {source} measured {measured}; choose one of them, or measure again")
    there = check_fresh(report, store, source)
    passed_over: dict[str, str] = {}
    misses: dict[str, list[_Miss]] = {}
    doubts: dict[str, list[str]] = {}
    ms: dict[str, float] = {}
    by_name = {engine.name: engine for engine in report.engines}
    for engine in report.engines:
        row = engine.row_at(bounds.batch)
        value = None if row is None else statistic_ms(row, bounds.statistic)
        if engine.name not in there:
            passed_over[engine.name] = f"is no longer in {store}/"
        elif row is None or value is None:
            passed_over[engine.name] = (
                f"was not timed at batch {bounds.batch}"
                if row is None
                else f"has too few samples for {bounds.statistic}"
            )
        else:
            ms[engine.name] = value
            misses[engine.name] = _misses(engine, value, bounds)
            doubts[engine.name] = _doubts(row) if bounds.max_ms is not None and value > bounds.max_ms else []
    fit = [name for name in ms if not misses[name]]
    if not fit:
        raise ProofError(_nothing(misses, passed_over, source, doubts))
    fastest = min(ms[name] for name in fit)
    tied = [name for name in fit if ms[name] <= fastest * (1 + MAX_SPREAD)]
    best = min(tied, key=lambda name: (by_name[name].result.model_bytes, ms[name], name))
    for name, missed in misses.items():
        if missed:
            passed_over[name] = "; ".join(miss.text for miss in missed)
        elif name in tied and name != best:
            passed_over[name] = f"as fast ({ms[name]:.3g} ms) and no smaller ({mib(by_name[name].result.model_bytes)})"
        elif name != best:
            passed_over[name] = f"slower: {ms[name]:.3g} ms"
    for directory, manifest in list_bundles(store):
        if directory.name not in by_name:
            unread = not isinstance(manifest, Manifest)
            passed_over[directory.name] = "cannot be read" if unread else f"is not in {source}; measure again"
    row = by_name[best].row_at(bounds.batch)
    assert row is not None  # it is among those that were timed
    return Recommendation(
        engine=by_name[best],
        row=row,
        reason=_reason(len(fit), len(tied), bounds),
        passed_over=tuple(PassedOver(name, why) for name, why in passed_over.items()),
        warnings=_warnings(by_name[best], row),
    )


def elsewhere(report: Report, source: Path) -> str | None:
    """Return a warning if ``report`` was measured on another machine: its latencies may not hold here."""
    here, there = describe_machine(), report.machine
    if (here["cpu"], here["cores"]) == (there.cpu, there.cores):
        return None
    return (
        f"{source} was measured on {there.cpu}, {there.cores} cores; this is {here['cpu']}, {here['cores']} cores: "
        "its latencies may not hold here"
    )


def statistic_ms(row: BatchResult, statistic: Statistic) -> float | None:
    """Return one statistic of a latency; None if there are too few samples for it."""
    latency = row.latency
    by_name = {"median": latency.median_ms, "p90": latency.p90_ms, "p95": latency.p95_ms, "p99": latency.p99_ms}
    return by_name[statistic]


def mib(count: float) -> str:
    """Return a size for people."""
    return f"{count / 2**20:.3g} MiB"


def _misses(engine: EngineReport, ms: float, bounds: Bounds) -> list[_Miss]:
    found, size = [], engine.result.model_bytes
    if bounds.max_ms is not None and ms > bounds.max_ms:
        found.append(_Miss(f"too slow: {ms:.3g} ms, allowed are {bounds.max_ms:g}", ms / bounds.max_ms - 1))
    if bounds.max_drop is not None:
        drop, what = drop_points(engine, confident=bounds.confident)
        if not holds_max_drop(drop, bounds.max_drop):
            least = max(bounds.max_drop, 0.1)  # relative to a bound of 0, every drop would be infinite
            text = f"{what} {drop:.2f} points of top-1, allowed are {bounds.max_drop:g}"
            found.append(_Miss(text, (drop - bounds.max_drop) / least))
    if bounds.max_bytes is not None and size > bounds.max_bytes:
        text = f"too large: {mib(size)}, allowed are {mib(bounds.max_bytes)}"
        found.append(_Miss(text, size / bounds.max_bytes - 1))
    return found


def drop_points(engine: EngineReport, *, confident: bool) -> tuple[float, str]:
    """Return the points of top-1 below the first engine, or the most within the 95 % interval, and the verb for it."""
    if engine.delta is None:
        return 0.0, "loses"
    if confident:
        return -engine.delta.points_interval.low, "may lose"
    return -engine.delta.points, "loses"


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


def _warnings(engine: EngineReport, row: BatchResult) -> tuple[str, ...]:
    found = _doubts(row)
    if count := engine.result.calibration_images:
        found.append(f"{count} of the report's images calibrated it: its accuracy looks better than it is")
    return tuple(found)


def _doubts(row: BatchResult) -> list[str]:
    if row.mark == "unstable":
        return ["its latency did not become steady; measure again on a machine at rest"]
    return [f"its latency cannot be trusted: {cause}" for cause in row.machine.invalid]
