"""The best bundle of a store within bounds, by the measurements of ``report``.

The rule: of the bundles that meet every bound, the fastest one; among bundles that one run cannot distinguish from
it, the smallest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import Manifest
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.errors import ArtifactError, InputError, ProofError, UsageError
from alexnet_deploy.evaluation.max_drop import holds_max_drop
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.profiling.engine import BatchResult
from alexnet_deploy.profiling.steady import MAX_SPREAD
from alexnet_deploy.report.data import EngineReport, Report
from alexnet_deploy.report.settings import Bounds, Statistic


@dataclass(frozen=True, slots=True)
class NotChosen:
    """A bundle that is not the best one, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best bundle; ``warnings`` are reasons that its numbers may be wrong."""

    engine: EngineReport
    row: BatchResult
    """Its latency at the batch size of the bounds."""
    reason: str
    passed_over: tuple[NotChosen, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A measured bundle; ``misses`` are the bounds that it does not meet.

    Each is a text, and the distance as a multiple of the bound.
    """

    engine: EngineReport
    row: BatchResult
    ms: float
    misses: list[tuple[str, float]]

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def size(self) -> int:
        return self.engine.result.model_bytes


def unchanged_bundles(report: Report, store: Path, source: Path) -> tuple[str, ...]:
    """Return the names of the bundles in ``store`` that are unchanged since ``source`` was measured.

    Raises ArtifactError if one was built again since then, or its files were edited.
    """
    there = []
    for engine in report.engines:
        directory = store / engine.name
        if not directory.is_dir():
            continue
        _, files = verify(directory, only={engine.file})
        record = files.get(engine.file)
        if record is None or record.sha256 != engine.file_sha256:
            raise ArtifactError(
                f"{source}: {engine.name} was built again since it was measured ({engine.file} has another SHA-256); "
                "measure again: alexnet-deploy report"
            )
        there.append(engine.name)
    return tuple(there)


def recommend(report: Report, store: Path, bounds: Bounds, source: Path) -> Recommendation:
    """Choose a bundle of ``store`` by the rule above; ``source`` is the file that ``report`` was read from.

    Raises InputError for a report without latencies, UsageError for a batch size that was not measured, ArtifactError
    if the files of the store have changed since, ProofError with the closest bundle if none meets the bounds.
    """
    if not report.batches():
        raise InputError(
            f"{source}: was measured without latencies, and the fastest engine is chosen by them; measure again with "
            "them: alexnet-deploy report"
        )
    if bounds.batch not in report.batches():
        measured = ", ".join(map(str, report.batches()))
        raise UsageError(f"`batch` {bounds.batch}: {source} measured {measured}; choose one of them, or measure again")
    there = unchanged_bundles(report, store, source)
    passed_over: dict[str, str] = {}
    judged: list[_Judged] = []
    for engine in report.engines:
        row = engine.row_at(bounds.batch)
        ms = None if row is None else statistic_ms(row, bounds.statistic)
        if engine.name not in there:
            passed_over[engine.name] = f"is no longer in {store}/"
        elif row is None:
            passed_over[engine.name] = f"was not timed at batch {bounds.batch}"
        elif ms is None:
            passed_over[engine.name] = f"has too few samples for {bounds.statistic}"
        else:
            judged.append(_Judged(engine, row, ms, _misses(engine, ms, bounds)))
    fit = [each for each in judged if not each.misses]
    if not fit:
        raise ProofError(_nothing(judged, passed_over, bounds, source))
    fastest = min(each.ms for each in fit)
    tied = [each for each in fit if each.ms <= fastest * (1 + MAX_SPREAD)]
    best = min(tied, key=lambda each: (each.size, each.ms, each.name))
    for each in judged:
        if each.misses:
            passed_over[each.name] = "; ".join(text for text, _ in each.misses)
        elif each in tied and each is not best:
            passed_over[each.name] = f"as fast ({each.ms:.3g} ms) and no smaller ({mib(each.size)})"
        elif each is not best:
            passed_over[each.name] = f"slower: {each.ms:.3g} ms"
    measured_names = {engine.name for engine in report.engines}
    for directory, manifest in list_bundles(store):
        if directory.name not in measured_names:
            unread = not isinstance(manifest, Manifest)
            passed_over[directory.name] = "cannot be read" if unread else f"is not in {source}; measure again"
    return Recommendation(
        engine=best.engine,
        row=best.row,
        reason=_reason(len(fit), len(tied), bounds),
        passed_over=tuple(NotChosen(name, why) for name, why in passed_over.items()),
        warnings=_warnings(best),
    )


def machine_warning(report: Report, source: Path) -> str | None:
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


def _misses(engine: EngineReport, ms: float, bounds: Bounds) -> list[tuple[str, float]]:
    found, size = [], engine.result.model_bytes
    if bounds.max_ms is not None and ms > bounds.max_ms:
        found.append((f"too slow: {ms:.3g} ms, the bound is {bounds.max_ms:g} ms", ms / bounds.max_ms - 1))
    if bounds.max_drop is not None:
        drop, what = drop_points(engine, confident=bounds.confident)
        if not holds_max_drop(drop, bounds.max_drop):
            least = max(bounds.max_drop, 0.1)  # relative to a bound of 0, every drop would be infinite
            text = f"{what} {drop:.2f} points of top-1, the bound is {bounds.max_drop:g}"
            found.append((text, (drop - bounds.max_drop) / least))
    if bounds.max_bytes is not None and size > bounds.max_bytes:
        found.append((f"too large: {mib(size)}, the bound is {mib(bounds.max_bytes)}", size / bounds.max_bytes - 1))
    return found


def drop_points(engine: EngineReport, *, confident: bool) -> tuple[float, str]:
    """Return the points of top-1 below the first engine, or the most within the 95 % interval, and a verb for it."""
    if engine.delta is None:
        return 0.0, "loses"
    if confident:
        return -engine.delta.points_interval.low, "may lose"
    return -engine.delta.points, "loses"


def _nothing(judged: Sequence[_Judged], passed_over: Mapping[str, str], bounds: Bounds, source: Path) -> str:
    others = [f"{name} {why}" for name, why in passed_over.items()]
    if not judged:
        return f"{source}: has no measurement to choose by ({others[0]}); measure again: alexnet-deploy report"
    closest = min(judged, key=lambda each: (len(each.misses), max(excess for _, excess in each.misses), each.name))
    too_slow = bounds.max_ms is not None and closest.ms > bounds.max_ms
    why = [*(text for text, _ in closest.misses), *(_doubts(closest.row) if too_slow else [])]
    return (
        f"none of the {len(judged)} measured bundles meets the bounds; the closest is {closest.name} "
        f"({'; '.join(why)}): widen that bound, or build another engine" + (f" ({'; '.join(others)})" if others else "")
    )


def _reason(fit: int, tied: int, bounds: Bounds) -> str:
    asked = [
        f"{bounds.statistic} within {bounds.max_ms:g} ms at batch {bounds.batch}" if bounds.max_ms else "",
        "" if bounds.max_drop is None else f"top-1 drop within {bounds.max_drop:g} points"
        + (" with 95 % confidence" if bounds.confident else ""),
        f"size within {mib(bounds.max_bytes)}" if bounds.max_bytes else "",
    ]  # fmt: skip
    within = ", ".join(filter(None, asked)) or "no bound"
    what = f"smallest of {tied} equally fast ones," if tied > 1 else "fastest"
    return f"the {what} of {fit} that {'meets' if fit == 1 else 'meet'} the bounds ({within})"


def _warnings(best: _Judged) -> tuple[str, ...]:
    found = _doubts(best.row)
    if count := best.engine.result.calibration_images:
        found.append(f"{count} of the report's images calibrated it, so its accuracy is too high")
    return tuple(found)


def _doubts(row: BatchResult) -> list[str]:
    if row.mark == "unstable":
        return ["its latency did not become steady; measure again on an idle machine"]
    return [f"its latency cannot be trusted: {cause}" for cause in row.machine.invalid]
