"""The output of the training commands for people, on the standard error."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rich.table import Table

from alexnet_deploy.cli.output.tables import add_row, table
from alexnet_deploy.cli.output.terminal import SafeConsole, err, note
from training.data.preflight import PreflightReport
from training.epochs import counted
from training.folds import FoldsResult
from training.loop.run import EpochMetrics
from training.results.outcome import Outcome, describe_accuracy
from training.start.begin import StartReport

_LEFT_OVER = 8
_WIDE = 10_000  # columns of a table in a pipe: longer than any path, so that a program finds each on one line


def show_epoch(row: EpochMetrics, epochs: int) -> None:
    """Print one line of metrics; ``epochs`` are those of the whole run."""
    val = "" if row.val_loss is None else f"val loss {row.val_loss:.3f}  top-1 {row.val_top1_percent:.2f} %  "
    note(
        f"epoch {row.epoch:3d}/{epochs}  train loss {row.train_loss:.3f}  {val}"
        f"{row.images_per_s:.0f} images/s ({row.data_wait_percent:.1f} % waiting for data)"
    )


def show_outcome(outcome: Outcome) -> None:
    """Print what a run reached, and how far that can be trusted."""
    note(describe_accuracy(outcome))
    if outcome.chosen:
        note(f"{describe_choice(outcome)}, so a little too high")
    before = outcome.before_test_scale_percent
    if before is not None:
        worse = "; test-scale/start.safetensors has that model" if before > outcome.top1_percent else ""
        epochs = counted(outcome.test_scale_epochs, "epoch")
        note(f"{epochs} at test scale followed; before {before:.1f} %{worse}", style="yellow" if worse else None)
    if outcome.verdict == "unproven":
        images = counted(outcome.images, "validation image")
        note(f"{images} cannot tell this from chance; add images, or measure with --folds", style="yellow")
    if outcome.top1_percent < outcome.majority_percent:
        note(
            f"always answering {outcome.majority!r} would be right more often; judge it by the mean over the classes",
            style="yellow",
        )


def describe_choice(outcome: Outcome) -> str:
    """Which epoch was kept, and by what."""
    return f"kept epoch {outcome.epoch}, the best of {outcome.epochs}: chosen by these images"


def show_fold(outcome: Outcome) -> None:
    """Print what one fold reached."""
    note(describe_accuracy(outcome))
    if outcome.chosen:
        note(describe_choice(outcome))


def show_folds(result: FoldsResult) -> None:
    """Print mean and spread of a cross-validation."""
    if any(outcome.chosen for outcome in result.outcomes):
        note("each fold kept its best epoch, chosen by the images that measure it, so these figures are a bit too high")
    low, high = result.pooled_interval
    note(
        f"{len(result.outcomes)} folds: top-1 {result.mean_percent:.1f} % in the mean, standard deviation "
        f"{result.spread_percent:.1f}; mean over the classes {result.class_mean_percent:.1f} %; "
        f"95 % interval {low:.1f}..{high:.1f} for all {result.images} images"
    )


def show_start(report: StartReport) -> None:
    """Print what of the given weights the network begins with."""
    rank = "full rank" if report.arch.dense_rank is None else f"dense rank {report.arch.dense_rank}"
    note(f"start {report.source}: {report.arch.name}, {rank}; {report.preprocessing.describe()}")
    for text in report.notes:
        note(text)
    console = err if err.is_terminal else SafeConsole(stderr=True, width=_WIDE)
    console.print(start_table(report))


def start_table(report: StartReport) -> Table:
    """One row per layer; of what is left over, the first ``_LEFT_OVER`` and a count."""
    grid = table("layer", "weights", "", "why")
    left_over = [row for row in report.rows if row.outcome == "left over"]
    for row in report.rows:
        if row not in left_over[_LEFT_OVER:]:
            add_row(grid, (row.layer, " x ".join(map(str, row.shape)), row.outcome, row.why))
    if len(left_over) > _LEFT_OVER:
        add_row(grid, (f"and {len(left_over) - _LEFT_OVER} more", "", "left over", ""))
    return grid


def show_preflight(report: PreflightReport, allowed: Collection[str], flag_of: Callable[[str], str]) -> None:
    """Print the findings of the preflight, if any; never cut off in a pipe."""
    if report.findings:
        note("Data preflight")
        console = err if err.is_terminal else SafeConsole(stderr=True, width=_WIDE)
        console.print(preflight_table(report, allowed, flag_of))


def preflight_table(report: PreflightReport, allowed: Collection[str], flag_of: Callable[[str], str]) -> Table:
    """One row per finding, with its first case."""
    grid = table("found", ">cases", "for example", "so")
    for finding in report.findings:
        verdict = flag_of(finding.allow) if finding.allow else "as it is"
        verdict, style = ("refused", "red") if finding.is_refused(allowed) else (verdict, None)
        add_row(grid, (finding.kind, len(finding.cases), finding.cases[0], verdict), style=style)
    return grid
