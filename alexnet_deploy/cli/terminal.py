"""The terminal: results go to the standard output; notes and progress bars go to the standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alexnet_deploy.errors import printable
from alexnet_deploy.progress import Progress as Report

_WIDE = 160  # columns of a table in a pipe, where no terminal reports its width
_is_terminal = sys.stdout is not None and sys.stdout.isatty()  # None: it is closed
out = Console(highlight=False, markup=False, width=None if _is_terminal else _WIDE)
err = Console(highlight=False, markup=False, stderr=True)


def note(text: str, style: str | None = None) -> None:
    """Print one line for people on the standard error, apart from the result."""
    err.print(printable(text), style=style, soft_wrap=True)


def note_written(*files: Path) -> None:
    """Note the files that a command wrote."""
    note(f"wrote {' and '.join(map(str, files))}")


def progress_bars() -> Progress:
    """Progress bars with the time left on a terminal; nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def reporting() -> Iterator[Report]:
    """A callback for a stage with steps: one bar per stage name, for the length of the block."""
    with progress_bars() as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report
