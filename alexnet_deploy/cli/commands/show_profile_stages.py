"""What ``profile-stages`` measured: a table for people, JSON with stable field names for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from alexnet_deploy.bundle.manifest import Engine

if TYPE_CHECKING:  # loads NumPy; here it is only a shape to print
    from alexnet_deploy.profiling.stages import StageReport


def stages(console: Console, engine: Engine, found: StageReport, *, as_json: bool) -> None:
    """A row a stage, then the rates of the whole and of its halves."""
    if as_json:
        named = {"engine": engine.name, "precision": engine.precision}
        print(json.dumps(named | found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    passes = f" {found.passes} times" if found.passes > 1 else ""
    console.print(
        f"{found.images} images{passes} through {engine.name} ({engine.precision}), {found.runner}: "
        f"{found.total_s:.2f} s in {found.threads} threads, {found.images_per_s:.0f} images/s",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for heading in ("thread s", "share %", "ms/image", "images/s alone"):
        table.add_column(heading, justify="right")
    for stage in found.stages:
        alone = "" if stage.name == "waiting" else f"{stage.images_per_s:.0f}"
        shares = (f"{stage.thread_s:.2f}", f"{stage.share_percent:.1f}", f"{stage.ms_per_image:.3f}")
        table.add_row(stage.name, *shares, alone)
    table.add_row("unaccounted", "", f"{found.unaccounted_percent:.1f}", style="dim")
    console.print(table)
    console.print("of a thread's time: where threads outnumber cores, waits for a core are inside", style="dim")
    console.print(
        f"without a clock {found.clockless_images_per_s:.0f} images/s; decoding alone "
        f"{found.decode_images_per_s:.0f}, engine alone {found.engine_images_per_s:.0f}: both on the same cores "
        f"{found.additive_limit_images_per_s:.0f} at best, reached {found.of_limit:.2f} of that",
        soft_wrap=True,
    )
    for cause in found.invalid:
        console.print(f"invalid: {cause}", style="yellow", soft_wrap=True)
