"""``profile`` and ``profile-stages``: how fast an engine is, and where the time of ``infer`` goes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from alexnet_deploy.bundle.store import resolve_engine, some_bundle_names
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import note_passed_over, running
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.replace import check_output, refuse_other_json
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, note_written, out, reporting
from alexnet_deploy.cli.quantities import Numbers, Seconds
from alexnet_deploy.errors import DeployError, ProofError
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.profiling.settings import ProfileSettings

if TYPE_CHECKING:
    from alexnet_deploy.profiling.card_roofline import CardRoofline
    from alexnet_deploy.profiling.engine import BatchResult, EngineProfile
    from alexnet_deploy.profiling.latency import Latency
    from alexnet_deploy.profiling.stages import StageReport

_DEFAULTS = ProfileSettings()
_BATCH_SIZES = Numbers(_DEFAULTS.batch_sizes)
_DURATION_S, _WARM_UP_S = Seconds(_DEFAULTS.duration_s), Seconds(_DEFAULTS.warm_up_s)
_STYLE = {"ok": None, "unstable": "yellow", "invalid": "red"}
_TIMES = ("min", "mean", "median", "p90", "p95", "p99", "p99.9", "max", "stdev")
_NARROW_TIMES = ("median", "p90", "p99", "max")
_ALL_COLUMNS = 112
"""Characters of a row with all times and a name of usual length."""


@opt.with_import_options
def profile(
    engines: opt.Engines = None,
    batch_sizes: opt.BatchSizes = _BATCH_SIZES,
    concurrency: opt.Concurrency = _DEFAULTS.concurrency,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    duration_s: opt.Duration = _DURATION_S,
    warm_up_s: Annotated[float, opt.time_option("--warmup", "Time to warm up before each measurement.")] = _WARM_UP_S,
    iterations: Annotated[int, typer.Option(help="Minimum number of calls to measure.")] = _DEFAULTS.iterations,
    export_times: Annotated[Path | None, typer.Option(help="JSON file to write: the time of every call.")] = None,
    tf32: opt.Tf32 = False,
    device: opt.OneDevice = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a row is unstable or invalid.")] = False,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure latency and throughput by trtexec's rules.

    Each engine runs in its own process, until its times are steady.
    """
    from alexnet_deploy.profiling.engine import check_batch_sizes, profile_engine, write_times

    settings = ProfileSettings(
        tuple(batch_sizes),
        concurrency,
        runtime,
        threads,
        duration_s,
        warm_up_s,
        iterations,
        tf32,
        opt.one_device(device),
    )
    names = engines or some_bundle_names(store)
    with ExitStack() as stack:
        found = [
            stack.enter_context(resolve_engine(name, store, options, features=True))
            for name, options in zip(names, import_options.for_each(names), strict=True)
        ]
        for each in found:
            check_batch_sizes(each, settings.batch_sizes)
        if export_times is not None:
            check_output(export_times, "export_times", (*names, import_options.labels), formats=(".json",))
            times = ("schema", "machine", "engines")
            refuse_other_json(export_times, "export_times", "a file of times", times, without=("labels",))
        report = stack.enter_context(reporting())
        measured: list[EngineProfile] = []
        failed: list[DeployError] = []
        for i, each in enumerate(found):
            note(f"measuring {each.name} ({each.precision})", style="dim")
            report("engines", i, len(found))
            try:
                measured.append(profile_engine(each, settings))
                note_passed_over(measured[-1].passed_over, unused_gpu=measured[-1].unused_gpu)
            except DeployError as exc:
                failed.append(exc)
        if not measured:
            raise failed[0]
        if export_times is not None:
            write_times(export_times, measured)
    if json_:
        print_json([_raw(each) for each in measured])
    else:
        _print_profiles(measured)
    if export_times is not None:
        note_written(export_times)
    for line in dict.fromkeys(str(each) for each in failed[1:] if str(each) != str(failed[0])):
        note(f"error: {in_flags(line, profile)}", style="red")
    if failed:
        raise failed[0]
    if strict:
        _require_ok(measured)


def _require_ok(measured: Sequence[EngineProfile]) -> None:
    """ProofError with the reason of the first row that is unstable or invalid, and the number of others."""
    marked = [
        f"{each.name} batch {row.latency.batch} is {row.mark}: {_remarks(row)[0]}"
        for each in measured
        for row in each.rows
        if row.mark != "ok"
    ]
    if marked:
        others = (
            "" if len(marked) == 1 else f" (and {len(marked) - 1} more of {sum(len(e.rows) for e in measured)} rows)"
        )
        raise ProofError(f"`strict`: {marked[0]}{others}")


def _raw(found: EngineProfile) -> dict[str, Any]:
    return found.to_dict() | {"passed_over": [in_flags(each) for each in found.passed_over]}


def _print_profiles(found: Sequence[EngineProfile]) -> None:
    """Print one row per engine and batch size, then how each engine was run, and what is wrong.

    A narrow terminal gets fewer columns. A pipe and JSON get all of them.
    """
    out.print(_times_table(found, _TIMES if out.width >= _ALL_COLUMNS else _NARROW_TIMES))
    out.print()
    for profile in found:
        print_line(_conditions(profile))
    for profile in found:
        for row in profile.rows:
            for line in filter(None, (_used_of_gpu(row), _of_card(profile, row))):
                print_line(f"{profile.name} batch {row.latency.batch}: {line}")
    for text in dict.fromkeys(_ceilings(profile.card) for profile in found if profile.card is not None):
        print_line(text, style="dim")
    for profile in found:
        for row in profile.rows:
            for remark in _remarks(row):
                print_line(f"{row.mark}: {profile.name} batch {row.latency.batch}: {remark}", style=_STYLE[row.mark])
    if any(_time(row.latency, name) is None for profile in found for row in profile.rows for name in _TIMES):
        from alexnet_deploy.profiling.latency import samples_for

        least = ", ".join(f"p{percent} {samples_for(percent)}" for percent in (90, 95, 99, 99.9))
        print_line(f"-: too few calls for that percentile ({least}); raise --duration", style="dim")


def _times_table(found: Sequence[EngineProfile], times: Sequence[str]) -> Table:
    grid = table("ms per call", ">batch", *(f">{name}" for name in times), ">calls", ">images/s", "")
    for profile in found:
        for row in profile.rows:
            latency = row.latency
            numbers = [_ms(_time(latency, name)) for name in times]
            counts = (latency.iterations, f"{latency.images_per_s:.0f}")
            add_row(grid, (profile.name, latency.batch, *numbers, *counts, row.mark), style=_STYLE[row.mark])
    return grid


def _remarks(row: BatchResult) -> tuple[str, ...]:
    if row.mark != "unstable":
        return row.machine.invalid
    spread = row.latency.window_spread_percent
    return (
        f"the medians of its last windows differ by {spread:.1f} %; measure on an idle machine, or raise --duration",
    )


def _used_of_gpu(row: BatchResult) -> str:
    """What NVML reports of the GPU, which is about all processes on it; empty where it reports nothing."""
    energy_j, memory = row.gpu_energy_j_per_image, row.machine.gpu_memory_used_bytes_max
    parts = [] if energy_j is None else [f"{1000 * energy_j:.3g} mJ per image"]
    parts += [] if memory is None else [f"{memory / 2**20:.0f} MiB of its memory in use"]
    return f"the whole GPU: {', '.join(parts)}" if parts else ""


def _of_card(profile: EngineProfile, row: BatchResult) -> str:
    """How much of what the card can do was reached; empty where that is not known."""
    if profile.card is None:
        return ""
    limit, bound = profile.card.limit(row.latency.batch)
    return f"{100 * row.latency.images_per_s / limit:.3g} % of the card's roofline, {limit:.0f} images/s by its {bound}"


def _ceilings(card: CardRoofline) -> str:
    return (
        f"roofline: arithmetic {card.precision} {card.peak_tflop_per_s:.1f} TFLOP/s = {card.peak_source}; memory "
        f"{card.memory_gb_per_s:.0f} GB/s = {card.memory_source}"
    )


def _time(latency: Latency, name: str) -> float | None:
    value: float | None = getattr(latency, f"{name.replace('.', '_')}_ms")
    return value


def _ms(value: float | None) -> str:
    """Three digits or more: engines differ by a factor of a thousand."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _conditions(profile: EngineProfile) -> str:
    settings = profile.settings
    threads = "" if settings.threads is None else f", {settings.threads} threads"
    calls = "" if settings.concurrency == 1 else f", {settings.concurrency} calls at a time"
    memory = "" if profile.peak_rss_bytes is None else f", peak memory {profile.peak_rss_bytes / 2**20:.0f} MiB"
    return (
        f"{profile.name} ({profile.precision}): {profile.runner}{threads}{calls}; loaded in {profile.load_s:.2f} s, "
        f"first call {_ms(profile.first_call_ms)} ms{memory}"
    )


@opt.with_import_options
def profile_stages(
    engine: opt.NewestEngine = None,
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="DATA", help="Image file, folder (with all below it) or glob pattern.  [repeatable]"
        ),
    ],
    runtime: opt.Runtime = "auto",
    batch: opt.Batch = BATCH,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure where the time from file to answer goes.

    All stages are timed within one run. Decoding alone and the engine alone are timed for comparison. Exit code 3:
    finished, but some images cannot be used.
    """
    from alexnet_deploy.images.find import find_images
    from alexnet_deploy.profiling.stages import profile_stages as measured

    files = list(find_images(data))
    with running(engine, store, runtime, threads, import_options) as opened, reporting() as report:
        result = measured(opened, files, batch=batch, workers=workers, on_progress=report)
        if json_:
            print_json({"engine": opened.name, "precision": opened.precision} | asdict(result))
        else:
            _print_stages(f"{opened.name} ({opened.precision})", result)
    if result.failed:
        note(f"{result.failed} of {result.images} images cannot be used; infer prints the reasons", style="yellow")
        raise typer.Exit(3)


def _print_stages(engine: str, found: StageReport) -> None:
    """One row per stage, then the rates of the whole and of its halves."""
    passes = f" {found.passes} times" if found.passes > 1 else ""
    print_line(
        f"{found.images} images{passes} through {engine}, {found.runner}: "
        f"{found.total_s:.2f} s in {found.threads} threads, {found.images_per_s:.0f} images/s"
    )
    grid = table("stage", ">thread s", ">share %", ">ms/image", ">images/s alone")
    for stage in found.stages:
        alone = "" if stage.name == "waiting" else f"{stage.images_per_s:.0f}"
        shares = (f"{stage.thread_s:.2f}", f"{stage.share_percent:.1f}", f"{stage.ms_per_image:.3f}")
        add_row(grid, (stage.name, *shares, alone))
    add_row(grid, ("unaccounted", "", f"{found.unaccounted_percent:.1f}", "", ""), style="dim")
    out.print(grid)
    print_line("thread s includes waiting for a core where threads outnumber cores", style="dim")
    print_line(
        f"without timing {found.clockless_images_per_s:.0f} images/s; decoding alone "
        f"{found.decode_images_per_s:.0f}, engine alone {found.engine_images_per_s:.0f}; limit of both on the "
        f"same cores {found.additive_limit_images_per_s:.0f}, reached {100 * found.of_limit:.0f} %"
    )
    for cause in found.invalid:
        print_line(f"invalid: {cause}", style="yellow")
