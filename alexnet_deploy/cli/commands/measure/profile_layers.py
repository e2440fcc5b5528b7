"""``profile-layers``: where the time of one call goes, layer by layer, and how fast the machine could be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs, note_passed_over
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import add_row, number, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, out, reporting
from alexnet_deploy.precision.float_source import find_float_source
from alexnet_deploy.profiling.settings import LayerRuntime

if TYPE_CHECKING:
    from alexnet_deploy.profiling.layer_profile import LayerProfile, LayerRow
    from alexnet_deploy.profiling.layers.verdicts import Verdict


@opt.with_import_options
def profile_layers(
    engine: opt.NewestEngine = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Engine to compare each layer with.  [default: the float model, if it is in the store]"),
    ] = None,
    batch: opt.Batch = 1,
    runtime: Annotated[
        LayerRuntime, typer.Option(help="Runtime; auto uses the first that can run the engine here.")
    ] = "auto",
    threads: opt.Threads = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure each layer against the machine's limits.

    The limits are those of its arithmetic and memory (a roofline). A layer that is not faster than in the baseline
    gets an explanation.
    """
    with needs("cpu"):
        from alexnet_deploy.profiling.layers.profile import profile_layers as profiled
        from alexnet_deploy.profiling.layers.verdicts import verdicts

        profiles: list[LayerProfile] = []
        with ExitStack() as stack:
            ours, theirs = import_options.for_each((engine, baseline))
            found = [stack.enter_context(resolve_engine(engine, store, ours))]
            other = baseline or find_float_source(found[0], store)
            if other is not None:
                found.append(stack.enter_context(resolve_engine(other, store, theirs)))
            report = stack.enter_context(reporting())
            for i, each in enumerate(found):
                note(f"timing the layers of {each.name} ({each.precision})")
                report("engines", i, len(found))
                # The second runs on the runtime of the first, even if another one could run it.
                profiles.append(profiled(each, profiles[0].runtime if profiles else runtime, batch, threads))
                note_passed_over(profiles[-1].passed_over, unused_gpu=profiles[-1].unused_gpu)
    compared = verdicts(*profiles) if len(profiles) == 2 else ()
    if json_:
        print_json({"profiles": [_raw(each) for each in profiles], "compared": compared})
        return
    for profile in profiles:
        _print_profile(profile)
    if compared:
        _print_comparison(profiles[0].engine, profiles[1].engine, compared)


def _raw(found: LayerProfile) -> dict[str, Any]:
    passed_over = [{"runtime": each.runtime, "reason": in_flags(each.reason)} for each in found.passed_over]
    return asdict(found) | {"passed_over": passed_over}


def _print_profile(profile: LayerProfile) -> None:
    threads = "default threads" if profile.threads is None else f"{profile.threads} threads"
    print_line(
        f"{profile.engine} ({profile.precision}), {profile.runner}, {threads}, batch {profile.batch}, median of "
        f"{profile.calls} calls"
    )
    grid = table(
        *("layer", "within", "op", "ran in", "kernel", ">us", ">share %", ">MFLOP", ">MiB", ">FLOP/B", ">GFLOP/s"),
        *(">GB/s", ">limit us", ">% of limit", "bound by"),
        gap=1,
    )
    for row in profile.rows:
        add_row(grid, _cells(row), style="dim" if row.overhead else None)
    for name, us in (("sum", profile.sum_us), ("unexplained", profile.remainder_us), ("whole call", profile.whole_us)):
        add_row(grid, (name, "", "", "", "", f"{us:.0f}", f"{100 * us / profile.whole_us:.1f}"), style="bold")
    out.print(grid)
    print_line(f"a call without counters: {profile.uncounted_us:.0f} us")
    if profile.roofline is not None:
        roofline, memory = profile.roofline, profile.roofline.bandwidth
        peaks = "".join(f"{p.precision} {p.gflop_per_s:.0f} GFLOP/s ({p.kernel}), " for p in roofline.peaks)
        cache = f"{memory.cache_bytes / 2**20:.0f} MiB" + ("" if memory.cache_told else ", assumed")
        print_line(
            f"roofline, {roofline.runtime}, {roofline.threads} threads: {peaks}memory {memory.memory_gb_per_s:.1f} "
            f"GB/s, cache ({cache}) {memory.cache_gb_per_s:.0f} GB/s"
        )
    for remark in (*profile.notes, *(f"invalid: {cause}" for cause in profile.invalid)):
        print_line(remark, style="yellow")
    out.print()


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        "(conversion)" if row.overhead else row.layer,  # its own name, in JSON, is a line long
        f"for {row.next_layer}" if row.overhead and row.next_layer else ", ".join(row.fused),
        row.op,
        row.precision,
        row.kernel if row.kernel != row.op else "",
        f"{row.median_us:.1f}",
        f"{row.share_percent:.1f}",
        number(row.flops / 1e6 if row.flops else None, 1),
        number(None if row.moved_bytes is None else row.moved_bytes / 2**20, 2),
        number(row.flops_per_byte, 1),
        number(row.gflop_per_s, 1),
        number(row.gb_per_s, 1),
        number(row.limit_us, 1),
        number(row.of_limit_percent, 0),
        row.bound or "",
    )


def _print_comparison(engine: str, baseline: str, compared: Sequence[Verdict]) -> None:
    print_line(f"{engine} compared with {baseline}; times with the conversions that feed a layer")
    grid = table("layer", "ran in", "baseline", ">us", ">baseline us", ">speed-up", "why not faster")
    for row in compared:
        times = (f"{row.us:.1f}", f"{row.beside_us:.1f}", f"{row.speedup:.2f}x")
        cells = (row.layer, row.precision, row.beside_precision, *times, row.why or "")
        add_row(grid, cells, style="yellow" if row.why else None)
    out.print(grid)
