"""``python -m training report``: the page and the card of a run, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.output.terminal import note_written, reporting
from training.cli.options import AllowUnreadable, Val, ValLabels, Workers


def report_command(
    run: Annotated[Path, Argument(metavar="RUN", help="Run directory of train.")],
    data: Annotated[
        Path | None, Argument(metavar="DATA", help="Its images, as for train.  [default: where train found them]")
    ] = None,
    val: Val = None,
    val_labels: ValLabels = None,
    allow_unreadable: AllowUnreadable = False,
    *,
    workers: Workers,
) -> None:
    """Measure a run, and write its report.html, card.md and suspects.txt."""
    with needs("train"):
        from training.report.again import report_run

    with reporting() as on_progress:
        written = report_run(
            run,
            data,
            val=val,
            val_labels=val_labels,
            allow_unreadable=allow_unreadable,
            workers=workers,
            on_progress=on_progress,
        )
    note_written(*written)
