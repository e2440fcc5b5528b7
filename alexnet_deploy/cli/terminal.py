"""The terminal: where lines go, and progress bars on it (none in a pipe)."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_WIDE = 160  # columns of a table in a pipe, where no terminal tells its width
_is_terminal = sys.stdout is not None and sys.stdout.isatty()  # None: it is closed
out = Console(highlight=False, markup=False, width=None if _is_terminal else _WIDE)
err = Console(highlight=False, markup=False, stderr=True)


def progress_bars() -> Progress:
    """A progress bar on a terminal; nothing in a pipe."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def bytes_into(progress: Progress, label: str) -> Callable[[int, int | None], None]:
    """A callback for a download: bytes so far, bytes in all or None."""
    task = progress.add_task(label, total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def steps_into(progress: Progress) -> Callable[[str, int, int], None]:
    """A callback for a stage with steps: its name, steps done, steps in all; a bar a name."""
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done, total=total)

    return report
