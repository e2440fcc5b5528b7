"""Which engine was recommended, and why: a few lines for people, JSON with stable field names for programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from alexnet_deploy.cli.terminal import err

if TYPE_CHECKING:  # it loads SciPy; here it is only a shape to print
    from alexnet_deploy.report.recommend import Bounds, Recommendation


def recommendation(
    console: Console, best: Recommendation, bounds: Bounds, source: Path, elsewhere: str | None, *, as_json: bool
) -> None:
    """The engine on a line of its own; warnings go to the standard error in both forms."""
    engine, run, pair = best.engine, best.run, best.engine.beside_first
    warnings = [*best.warnings, *([elsewhere] if elsewhere else [])]
    for warning in warnings:
        err.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if as_json:
        raw = {
            "engine": engine.name,
            "reason": best.reason,
            "report": str(source),
            "bounds": dataclasses.asdict(bounds),
            "precision": engine.precision,
            "runner": engine.runner,
            "file": engine.file,
            "file_bytes": engine.file_bytes,
            "file_sha256": engine.file_sha256,
            "top1_percent": engine.accuracy.top1_percent,
            "points": 0.0 if pair is None else pair.points,
            "points_interval": None if pair is None else dataclasses.asdict(pair.points_interval),
            "latency": {key: value for key, value in dataclasses.asdict(run).items() if key != "quantiles_ms"},
            "passed_over": [dataclasses.asdict(other) for other in best.passed_over],
            "warnings": warnings,
        }
        print(json.dumps(raw, indent=1, allow_nan=False))
        return
    drop = "the most precise one" if pair is None else (
        f"{pair.points:+.2f} points, {pair.points_interval.low:+.2f}..{pair.points_interval.high:+.2f}"
    )  # fmt: skip
    p99 = "" if run.p99_ms is None else f", p99 {run.p99_ms:.3g}"
    console.print(engine.name, style="bold", soft_wrap=True)
    console.print(f"{best.reason}", soft_wrap=True)
    console.print(
        f"{engine.accuracy.top1_percent:.2f} % top-1 ({drop}); "
        f"median {run.median_ms:.3g} ms{p99} at batch {run.batch}; "
        f"{engine.file_bytes / 2**20:.1f} MiB; {engine.runner}",
        soft_wrap=True,
    )
    if best.passed_over:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("passed over", overflow="fold")
        table.add_column("why", overflow="fold")
        for other in best.passed_over:
            table.add_row(other.name, other.reason)
        console.print()
        console.print(table)
