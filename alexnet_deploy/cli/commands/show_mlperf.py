"""What ``mlperf`` measured, under MLPerf's names: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from alexnet_deploy.bundle.manifest import Engine

if TYPE_CHECKING:  # these load LoadGen; here they are only shapes to print
    from alexnet_deploy.profiling.mlperf.results import Report, Result
    from alexnet_deploy.profiling.mlperf.run import Options


def tables(console: Console, engine: Engine, options: Options, report: Report) -> None:
    """One row a scenario, then what must be known of it."""
    what = "random images" if options.data is None else f"images of {options.data}"
    console.print(
        f"{engine.name} ({engine.precision}) with {report.description}, LoadGen {report.loadgen}; "
        f"{report.images} {what}, {report.memory_bytes / 2**20:.0f} MiB in memory",
        soft_wrap=True,
    )
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("scenario", "max batch", "metric", "value", "result"):
        grid.add_column(column, justify="right" if column in ("max batch", "value") else "left", overflow="fold")
    for result in report.results:
        grid.add_row(result.scenario, str(result.max_batch), *_cells(result))
    console.print(grid)
    for note in _notes(options, report):
        console.print(note, style="yellow", soft_wrap=True)


def _cells(result: Result) -> tuple[str, str, str]:
    if result.accuracy is not None:
        return "top-1 %", f"{result.accuracy.top1_percent:.2f}", f"{result.accuracy.images} images"
    assert result.summary is not None  # a result has the one or the other
    value = f"{result.summary.value:,.{0 if '(ns)' in result.summary.metric else 2}f}"
    return result.summary.metric, value, "VALID" if result.summary.valid else "INVALID"


def _notes(options: Options, report: Report) -> Iterator[str]:
    for result in report.results:
        summary = result.summary
        for reason in result.reasons:
            yield f"{result.scenario}: {reason}"
        if result.search and summary is not None and summary.valid:
            yield (
                f"{result.scenario}: {summary.parameters['target_qps']:g} queries/s is the highest rate found VALID in "
                f"{len(result.search)} runs, for a 99th percentile within {options.latency_bound_ms:g} ms"
            )
        for cause in result.disturbed:
            yield f"{result.scenario}: not to be trusted: {cause}"
        if summary is not None and (summary.warnings or summary.errors):
            yield f"{result.scenario}: LoadGen counts {summary.warnings} warnings and {summary.errors} errors"
        if result.unreadable:
            what = "left out" if result.accuracy else "run as black pixels"
            yield f"{result.scenario}: {len(result.unreadable)} images {what}: {result.unreadable[0]}"
        if result.accuracy and result.accuracy.not_finite:
            yield f"{result.scenario}: {result.accuracy.not_finite} answers are not finite and count as wrong"
    if (short := _too_short(options)) is not None:
        yield short


def _too_short(options: Options) -> str | None:
    from alexnet_deploy.profiling.mlperf.run import SUBMISSION_S

    if options.accuracy or options.min_duration_s >= SUBMISSION_S:
        return None
    return f"not a valid MLPerf submission length: {options.min_duration_s:g} s, the rules ask for {SUBMISSION_S:g} s"


def as_json(engine: Engine, options: Options, report: Report) -> None:
    """Everything, with LoadGen's own names where it has some."""
    raw = {
        "engine": engine.name,
        "precision": engine.precision,
        "runner": report.description,
        "passed_over": report.passed_over,
        "loadgen": report.loadgen,
        "options": dataclasses.asdict(options) | {"data": None if options.data is None else str(options.data)},
        "submission_length": _too_short(options) is None,
        "images": report.images,
        "memory_bytes": report.memory_bytes,
        "results": [_raw(result) for result in report.results],
    }
    print(json.dumps(raw, indent=1, allow_nan=False))


def _raw(result: Result) -> dict[str, Any]:
    raw = dataclasses.asdict(result) | {"logs": str(result.logs), "reasons": result.reasons}
    if result.accuracy is not None:
        raw["accuracy"]["top1_percent"] = result.accuracy.top1_percent
    return raw
