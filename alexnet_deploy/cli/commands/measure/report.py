"""``report`` and ``recommend``: one page on the engines of a store, and the best of them within bounds."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.replace import check_output, refuse_other_json
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, note_written, out, reporting
from alexnet_deploy.cli.quantities import Bytes, Milliseconds, Numbers, Seconds
from alexnet_deploy.errors import UsageError
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.report.settings import OPTIONAL_PARTS, PROFILE, Bounds, ReportRequest, Statistic

if TYPE_CHECKING:  # they load SciPy; only the types are needed here
    from alexnet_deploy.report.data import Report
    from alexnet_deploy.report.recommend import Recommendation

Part = StrEnum("Part", ["latency", "stages", "layers", "environment"])  # Typer takes no list of a Literal
_BOUNDS = Bounds()
_BATCH_SIZES, _DURATION_S = Numbers(PROFILE.batch_sizes), Seconds(PROFILE.duration_s)


def report(
    engines: opt.Bundles = None,
    data: Annotated[Path | None, typer.Option(help="Folder of images, one subfolder per class.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of images to time the stages on.  [default: those of --data]")
    ] = None,
    runtime: opt.Runtime = "auto",
    batch_sizes: opt.BatchSizes = _BATCH_SIZES,
    threads: opt.Threads = None,
    duration_s: opt.Duration = _DURATION_S,
    without: Annotated[
        list[Part] | None,
        typer.Option(metavar="PART", help=f"Part to leave out: {', '.join(OPTIONAL_PARTS)}.  [repeatable]"),
    ] = None,
    allow_calibration_images: opt.AllowCalibrationImages = False,
    from_: Annotated[Path | None, typer.Option("--from", help="report.json to draw again, without measuring.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML page to write; the data go into a .json of the same name.")
    ] = Path("report.html"),
    store: opt.Store = opt.STORE,
) -> None:
    """Measure a whole store, and write one HTML page.

    Accuracy, latency, stages and layers; the page needs no network.
    """
    if (data is None) == (from_ is None):
        raise UsageError("report needs either `data`, to measure, or `from`, to draw an earlier report.json")
    with needs("measure"):
        from alexnet_deploy.report.file import read_report, write_report
        from alexnet_deploy.report.page import write_page
    check_output(output, "output", (data, photos, from_), formats=(".html", ".htm"))
    if data is None:
        assert from_ is not None
        without_effect = {
            "engines": engines,
            "photos": photos,
            "runtime": runtime != "auto",
            "batch_sizes": tuple(batch_sizes) != tuple(_BATCH_SIZES),
            "threads": threads,
            "duration_s": duration_s != _DURATION_S,
            "without": without,
            "allow_calibration_images": allow_calibration_images,
            "store": store != opt.STORE,
        }
        if ignored := [name for name, given in without_effect.items() if given]:
            raise UsageError(f"`{ignored[0]}`: measures, and `from` draws what was measured; leave one of the two out")
        write_page(read_report(from_), output)
        note_written(output)
        return
    from alexnet_deploy.report.measure import measure_report

    json_file = output.with_suffix(".json")
    check_output(json_file, "output")
    refuse_other_json(json_file, "output", "a report", ("schema", "engines", "machine", "labels"))
    request = ReportRequest(
        data=data,
        photos=photos,
        engines=None if not engines else tuple(engines),
        store=store,
        profile=ProfileSettings(tuple(batch_sizes), runtime=runtime, threads=threads, duration_s=duration_s),
        without=frozenset(part for part in OPTIONAL_PARTS if part in (without or ())),
        allow_calibration_images=allow_calibration_images,
        command=("alexnet-deploy", *sys.argv[1:]),
    )
    with reporting() as on_progress:
        found = measure_report(request, on_progress=on_progress)
    found = _in_flags(found)
    write_report(found, json_file)
    write_page(found, output)
    for gap in found.gaps:
        note(f"gap: {gap.part}{f' of {gap.engine}' if gap.engine else ''}: {gap.reason}", style="yellow")
    note_written(output, json_file)


def _in_flags(found: Report) -> Report:
    """The report with flags instead of parameters: whoever reads it typed a command."""
    return replace(
        found,
        gaps=tuple(replace(gap, reason=in_flags(gap.reason, report)) for gap in found.gaps),
        engines=tuple(replace(each, notes=tuple(map(in_flags, each.notes))) for each in found.engines),
    )


def recommend(
    source: Annotated[Path, typer.Argument(metavar="REPORT", help="File that report wrote.")] = Path("report.json"),
    max_ms: Annotated[
        float | None,
        opt.time_option("--max-latency", "Maximum time per call, such as 5ms or 800us.", parser=Milliseconds.parse),
    ] = None,
    max_drop: opt.MaxDrop = None,
    max_bytes: Annotated[
        float | None,
        typer.Option(
            "--max-size", parser=Bytes.parse, metavar="SIZE", help="Maximum size of the model's file, such as 10MiB."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Number of images per call that --max-latency bounds.")] = _BOUNDS.batch,
    percentile: Annotated[Statistic, typer.Option(help="The latency that counts.")] = _BOUNDS.statistic,
    confident: opt.Confident = False,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Name the best engine of a store within bounds.

    That is the fastest one that meets the bounds; among equally fast ones, the smallest.
    """
    with needs("measure"):
        from alexnet_deploy.report.file import read_report
        from alexnet_deploy.report.recommend import machine_warning
        from alexnet_deploy.report.recommend import recommend as best_of
    bounds = Bounds(
        max_ms=max_ms, max_drop=max_drop, max_bytes=max_bytes, batch=batch, statistic=percentile, confident=confident
    )
    found = read_report(source)
    best = best_of(found, store, bounds, source)
    other_machine = machine_warning(found, source)
    warnings = [*best.warnings, *([other_machine] if other_machine else [])]
    for warning in warnings:
        note(f"warning: {warning}", style="yellow")
    if json_:
        print_json(_raw(best, bounds, source, warnings))
    else:
        _print_recommendation(best)


def _print_recommendation(best: Recommendation) -> None:
    """Print the engine on its own line, the reason, and the reasons against the others."""
    engine, run, delta = best.engine, best.row.latency, best.engine.delta
    drop = "the most precise one" if delta is None else (
        f"{delta.points:+.2f} points, {delta.points_interval.low:+.2f}..{delta.points_interval.high:+.2f}"
    )  # fmt: skip
    p99 = "" if run.p99_ms is None else f", p99 {run.p99_ms:.3g}"
    print_line(engine.name, style="bold")
    print_line(best.reason)
    print_line(
        f"{engine.result.accuracy.top1_percent:.2f} % top-1 ({drop}); median {run.median_ms:.3g} ms{p99} at batch "
        f"{run.batch}; {engine.result.model_bytes / 2**20:.1f} MiB; {engine.result.runner}"
    )
    if best.passed_over:
        grid = table("not chosen", "why")
        for other in best.passed_over:
            add_row(grid, (other.name, other.reason))
        out.print()
        out.print(grid)


def _raw(best: Recommendation, bounds: Bounds, source: Path, warnings: list[str]) -> dict[str, Any]:
    engine, delta = best.engine, best.engine.delta
    return {
        "engine": engine.name,
        "reason": best.reason,
        "report": source,
        "bounds": bounds,
        "precision": engine.result.precision,
        "runner": engine.result.runner,
        "file": engine.file,
        "file_bytes": engine.result.model_bytes,
        "file_sha256": engine.file_sha256,
        "top1_percent": engine.result.accuracy.top1_percent,
        "points": 0.0 if delta is None else delta.points,
        "points_interval": None if delta is None else delta.points_interval,
        "latency": best.row.to_dict() | {"invalid": best.row.machine.invalid},
        "passed_over": best.passed_over,
        "warnings": warnings,
    }
