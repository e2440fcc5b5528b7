"""Where training writes for people: the standard error, with progress bars on a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_WIDE = 10_000  # columns of a table in a pipe: longer than any path, so that a program finds each on one line
_width = None if sys.stderr.isatty() else _WIDE
console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True, width=_width)  # a path is shown as it is


def progress_bars(lead: bool) -> Progress:
    """A progress bar on a terminal, of the process that leads; nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (lead and console.is_terminal))
