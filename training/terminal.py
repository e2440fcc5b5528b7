"""Where training writes for people: the standard error, with progress bars on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)  # a path is shown as it is


def progress_bars(lead: bool) -> Progress:
    """A progress bar on a terminal, of the process that leads; nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (lead and console.is_terminal))
