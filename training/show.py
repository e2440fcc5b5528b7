"""The output of the training commands for people, on the standard error."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rich.console import Console
from rich.table import Table

from alexnet_deploy.cli.tables import add_row, table
from alexnet_deploy.cli.terminal import err, note
from training.data.preflight import PreflightReport
from training.loop.run import EpochMetrics

_WIDE = 10_000  # columns of a table in a pipe: longer than any path, so that a program finds each on one line


def show_epoch(row: EpochMetrics, epochs: int) -> None:
    """Print one line of metrics; ``epochs`` are those of the whole run."""
    val = "" if row.val_loss is None else f"val loss {row.val_loss:.3f}  top-1 {row.val_top1_percent:.2f} %  "
    note(
        f"epoch {row.epoch:3d}/{epochs}  train loss {row.train_loss:.3f}  {val}"
        f"{row.images_per_s:.0f} images/s ({row.data_wait_percent:.1f} % waiting for data)"
    )


def show_preflight(report: PreflightReport, allowed: Collection[str], flag_of: Callable[[str], str]) -> None:
    """Print the findings of the preflight, if any; never cut off in a pipe."""
    if report.findings:
        note("Data preflight")
        console = err if err.is_terminal else Console(stderr=True, markup=False, highlight=False, width=_WIDE)
        console.print(preflight_table(report, allowed, flag_of))


def preflight_table(report: PreflightReport, allowed: Collection[str], flag_of: Callable[[str], str]) -> Table:
    """One row per finding, with its first case."""
    grid = table("found", ">cases", "for example", "so")
    for finding in report.findings:
        verdict = flag_of(finding.allow) if finding.allow else "as it is"
        verdict, style = ("refused", "red") if finding.is_refused(allowed) else (verdict, None)
        add_row(grid, (finding.kind, len(finding.cases), finding.cases[0], verdict), style=style)
    return grid
