"""What ``profile-layers`` measured: tables for people, JSON with stable field names for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # loads NumPy; here they are only shapes to print
    from alexnet_deploy.profiling.layers.times import LayerProfile, LayerRow
    from alexnet_deploy.profiling.layers.verdicts import Verdict


def layers(console: Console, profiles: Sequence[LayerProfile], compared: Sequence[Verdict], *, as_json: bool) -> None:
    """A table an engine, then what was compared."""
    if as_json:
        value = {
            "profiles": [profile.to_dict() for profile in profiles],
            "compared": [verdict.to_dict() for verdict in compared],
        }
        print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
        return
    for profile in profiles:
        _profile(console, profile)
    if compared:
        _compared(console, profiles[0].engine, profiles[1].engine, compared)


def _profile(console: Console, profile: LayerProfile) -> None:
    threads = "threads of its own choice" if profile.threads is None else f"{profile.threads} threads"
    console.print(
        f"{profile.engine} ({profile.precision}), {profile.runner}, {threads}, batch {profile.batch}, median of "
        f"{profile.calls} calls",
        soft_wrap=True,
    )
    table = _table("layer", "within", "op", "ran in", "kernel")
    for heading in ("us", "share %", "MFLOP", "MiB", "FLOP/B", "GFLOP/s", "GB/s", "limit us", "% of limit"):
        table.add_column(heading, justify="right")
    table.add_column("bound by")
    for row in profile.rows:
        _add(table, row)
    for name, us in (("sum", profile.sum_us), ("unexplained", profile.remainder_us), ("whole call", profile.whole_us)):
        table.add_row(name, "", "", "", "", f"{us:.0f}", f"{100 * us / profile.whole_us:.1f}", style="bold")
    console.print(table)
    console.print(f"a call without counters: {profile.uncounted_us:.0f} us", soft_wrap=True)
    if profile.roofline is not None:
        roofline, memory = profile.roofline, profile.roofline.bandwidth
        peaks = "".join(f"{p.precision} {p.gflop_per_s:.0f} GFLOP/s ({p.kernel}), " for p in roofline.peaks)
        size = f"{memory.cache_bytes / 2**20:.0f} MiB" + ("" if memory.cache_told else ", assumed")
        console.print(
            f"roofline, {roofline.runtime}, {roofline.threads} threads: {peaks}memory {memory.memory_gb_per_s:.1f} "
            f"GB/s, cache ({size}) {memory.cache_gb_per_s:.0f} GB/s",
            soft_wrap=True,
        )
    for note in (*profile.notes, *(f"invalid: {cause}" for cause in profile.invalid)):
        console.print(note, soft_wrap=True, style="yellow")
    console.print()


def _add(table: Table, row: LayerRow) -> None:
    mib = None if row.moved_bytes is None else row.moved_bytes / 2**20
    table.add_row(
        "(conversion)" if row.overhead else row.layer,  # its own name, in JSON, is a line long
        f"for {row.next_layer}" if row.overhead and row.next_layer else ", ".join(row.fused),
        row.op,
        row.precision,
        row.kernel if row.kernel != row.op else "",
        f"{row.median_us:.1f}",
        f"{row.share_percent:.1f}",
        _number(row.flops / 1e6 if row.flops else None, 1),
        _number(mib, 2),
        _number(row.flops_per_byte, 1),
        _number(row.gflop_per_s, 1),
        _number(row.gb_per_s, 1),
        _number(row.limit_us, 1),
        _number(row.of_limit_percent, 0),
        row.bound or "",
        style="dim" if row.overhead else None,
    )


def _compared(console: Console, engine: str, beside: str, compared: Sequence[Verdict]) -> None:
    console.print(f"{engine} beside {beside}; times with the conversions that feed a layer", soft_wrap=True)
    table = _table("layer", "ran in", "there")
    for heading in ("us", "there us", "speed-up"):
        table.add_column(heading, justify="right")
    table.add_column("why not faster", overflow="fold")
    for row in compared:
        table.add_row(
            row.layer, row.precision, row.beside_precision, f"{row.us:.1f}", f"{row.beside_us:.1f}",
            f"{row.speedup:.2f}x", row.why or "", style="yellow" if row.why else None,
        )  # fmt: skip
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
