"""What ``profile`` measured: a table for people, JSON with stable field names for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # these load NumPy; here they are only shapes to print
    from alexnet_deploy.profiling.engine import EngineProfile, Row
    from alexnet_deploy.profiling.latency import Latency

_STYLE = {"ok": None, "unstable": "yellow", "invalid": "red"}
_TIMES = ("min", "mean", "median", "p90", "p95", "p99", "p99.9", "max", "stdev")
_NARROW_TIMES = ("median", "p90", "p99", "max")
_ALL_COLUMNS = 112
"""Characters that a row of all times takes beside a name of usual length."""


def profiles(console: Console, found: Sequence[EngineProfile], *, as_json: bool) -> None:
    """One row an engine and batch size, in ms a call; below it what each engine was run with, and what is wrong.

    A narrow terminal gets fewer columns; a pipe and JSON get all.
    """
    if as_json:
        print(json.dumps([profile.to_dict() for profile in found], indent=1, ensure_ascii=False, allow_nan=False))
        return
    console.print(_table(found, _TIMES if console.width >= _ALL_COLUMNS else _NARROW_TIMES))
    console.print()
    for profile in found:
        console.print(_conditions(profile), soft_wrap=True)
    for profile in found:
        for row in profile.rows:
            for remark in _remarks(row):
                line = f"{row.mark}: {profile.name} batch {row.latency.batch}: {remark}"
                console.print(line, style=_STYLE[row.mark], soft_wrap=True)
    if any(_time(row.latency, name) is None for profile in found for row in profile.rows for name in _TIMES):
        from alexnet_deploy.profiling.latency import samples_for

        least = ", ".join(f"p{percent} {samples_for(percent)}" for percent in (90, 95, 99, 99.9))
        console.print(f"-: fewer calls than that percentile takes ({least}); raise --duration", style="dim")


def _table(found: Sequence[EngineProfile], times: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ms a call", overflow="fold")
    for heading in ("batch", *times, "calls", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for profile in found:
        for row in profile.rows:
            latency = row.latency
            numbers = [_ms(_time(latency, name)) for name in times]
            counts = (str(latency.iterations), f"{latency.images_per_s:.0f}")
            table.add_row(profile.name, str(latency.batch), *numbers, *counts, row.mark, style=_STYLE[row.mark])
    return table


def _remarks(row: Row) -> tuple[str, ...]:
    if row.mark != "unstable":
        return row.machine.invalid
    spread = row.latency.window_spread_percent
    return (
        f"the medians of its last windows lie {spread:.1f} % apart; let the machine come to rest, or raise --duration",
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
