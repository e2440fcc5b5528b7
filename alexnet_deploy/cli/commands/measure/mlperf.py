"""``mlperf``: measure an engine in MLPerf's scenarios, with MLPerf's names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs, note_passed_over
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, note_written, out, reporting
from alexnet_deploy.cli.quantities import Milliseconds, Seconds
from alexnet_deploy.profiling.mlperf.settings import SCENARIOS, SUBMISSION_S, MlperfSettings, Scenario

if TYPE_CHECKING:  # these load LoadGen; only the types are needed here
    from alexnet_deploy.profiling.mlperf.results import MlperfReport, ScenarioResult

LOGS = Path("mlperf")
AnyScenario = Literal[Scenario, "all"]
_DEFAULTS = MlperfSettings()
_LATENCY_BOUND_MS, _DURATION_S = Milliseconds(_DEFAULTS.latency_bound_ms), Seconds(_DEFAULTS.min_duration_s)


@opt.with_import_options
def mlperf(
    engine: opt.NewestEngine = None,
    scenario: Annotated[AnyScenario, typer.Option(help="Scenario to run.")] = "all",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images; for --accuracy one subfolder per class.  [default: random pixels]"),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="LoadGen's accuracy mode: each image once, instead of performance.")
    ] = False,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    concurrency: opt.Concurrency = _DEFAULTS.concurrency,
    max_batch: Annotated[
        int | None, typer.Option(help="Maximum batch size per request.  [default: the fastest up to 32]")
    ] = None,
    latency_bound_ms: Annotated[
        float,
        opt.time_option(
            "--latency-bound",
            "Server: bound of the 99th percentile, as for ResNet-50.",
            parser=Milliseconds.parse,
        ),
    ] = _LATENCY_BOUND_MS,
    min_duration_s: Annotated[
        float, opt.time_option("--duration", "Minimum time per run; a submission needs 600s.")
    ] = _DURATION_S,
    seed: Annotated[int, typer.Option(help="Seed of LoadGen's choices and of random pixels.")] = _DEFAULTS.seed,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for LoadGen's logs.  [default: mlperf/ENGINE]"),
    ] = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure an engine in MLPerf's scenarios (LoadGen)."""
    with needs("mlperf"):
        from alexnet_deploy.profiling.mlperf.run import run_scenarios
    from alexnet_deploy.profiling.mlperf.results import require_valid

    settings = MlperfSettings(
        data=data,
        accuracy=accuracy,
        runtime=runtime,
        threads=threads,
        concurrency=concurrency,
        max_batch=max_batch,
        latency_bound_ms=latency_bound_ms,
        min_duration_s=min_duration_s,
        seed=seed,
    )
    scenarios = [known for known in SCENARIOS if scenario in (known, "all")]
    with resolve_engine(engine, store, import_options) as found, reporting() as bar:

        def on_progress(text: str, done: int, total: int) -> None:
            note(text, style="dim")
            bar("scenarios", done, total)

        logs = output or LOGS / found.name
        report = run_scenarios(found, scenarios, settings, logs, on_progress=on_progress)
    note_passed_over(report.system.passed_over, unused_gpu=report.system.unused_gpu)
    if json_:
        print_json(_raw(found, settings, report))
    else:
        _print_table(found, settings, report)
    if any(result.logs is not None for result in report.results):
        note_written(logs)
    require_valid(report)


def _print_table(engine: Engine, settings: MlperfSettings, report: MlperfReport) -> None:
    """One row per scenario, then remarks."""
    what = "random images" if settings.data is None else f"images of {settings.data}"
    print_line(
        f"{engine.name} ({engine.precision}) with {report.system.description}, LoadGen {report.loadgen}; "
        f"{report.images} {what}, {report.system.memory_bytes / 2**20:.0f} MiB in memory"
    )
    grid = table("scenario", ">max batch", "metric", ">value", "result")
    for result in report.results:
        add_row(grid, (result.scenario, result.max_batch, *_cells(result)))
    out.print(grid)
    for remark in _remarks(settings, report):
        print_line(remark, style="yellow")


def _cells(result: ScenarioResult) -> tuple[str, str, str]:
    if result.accuracy is not None:
        return "top-1 %", f"{result.accuracy.top1_percent:.2f}", f"{result.accuracy.images} images"
    if result.summary is None:
        return "", "", "INVALID"
    value = f"{result.summary.value:,.{0 if '(ns)' in result.summary.metric else 2}f}"
    return result.summary.metric, value, "VALID" if result.summary.valid else "INVALID"


def _remarks(settings: MlperfSettings, report: MlperfReport) -> Iterator[str]:
    for result in report.results:
        summary = result.summary
        for reason in result.reasons:
            yield f"{result.scenario}: {in_flags(reason, mlperf)}"
        if result.search and summary is not None and summary.valid:
            yield (
                f"{result.scenario}: {summary.parameters['target_qps']:g} queries/s is the highest rate found VALID in "
                f"{len(result.search)} runs, for a 99th percentile within {settings.latency_bound_ms:g} ms"
            )
        for cause in result.disturbed:
            yield f"{result.scenario}: cannot be trusted: {cause}"
        if summary is not None and (summary.warnings or summary.errors):
            yield f"{result.scenario}: LoadGen reports {summary.warnings} warnings and {summary.errors} errors"
        if result.unreadable:
            what = "left out" if result.accuracy else "run as black pixels"
            yield f"{result.scenario}: {len(result.unreadable)} images {what}: {result.unreadable[0]}"
        if result.accuracy and result.accuracy.not_finite:
            yield f"{result.scenario}: {result.accuracy.not_finite} answers are not finite and count as wrong"
    if (short := _too_short(settings)) is not None:
        yield short


def _too_short(settings: MlperfSettings) -> str | None:
    if settings.accuracy or settings.min_duration_s >= SUBMISSION_S:
        return None
    return f"not a valid MLPerf submission length: {settings.min_duration_s:g} s, the rules require {SUBMISSION_S:g} s"


def _raw(engine: Engine, settings: MlperfSettings, report: MlperfReport) -> dict[str, Any]:
    """Everything that was measured, with LoadGen's own names where they exist."""
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "runner": report.system.description,
        "passed_over": [in_flags(each) for each in report.system.passed_over],
        "loadgen": report.loadgen,
        "options": settings,
        "submission_length": _too_short(settings) is None,
        "images": report.images,
        "memory_bytes": report.system.memory_bytes,
        "results": [_raw_result(result) for result in report.results],
    }


def _raw_result(result: ScenarioResult) -> dict[str, Any]:
    raw = dataclasses.asdict(result) | {"reasons": [in_flags(reason, mlperf) for reason in result.reasons]}
    del raw["unmet"]  # it is among the reasons
    if result.accuracy is not None:
        raw["accuracy"]["top1_percent"] = result.accuracy.top1_percent
    return raw
