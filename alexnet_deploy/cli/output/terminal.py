"""The terminal: results go to the standard output; notes and progress bars go to the standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.errors import printable
from alexnet_deploy.progress import Progress as Report

_WIDE = 160  # columns of a table in a pipe, where no terminal reports its width
_is_terminal = sys.stdout is not None and sys.stdout.isatty()  # None: it is closed


class SafeConsole(Console):
    """A console that prints control, bidirectional and invisible characters of any text as escapes.

    Names, labels and notes come from files of strangers: such characters can hide text, reorder it or run commands of
    the terminal. The codes for colours and bars are rich's own, and pass. Nothing in a text is a command to rich
    either: no markup, no emoji by name (``a:b:c.jpg`` is a file), no guessed colours.
    """

    def __init__(self, **settings: Any) -> None:
        """``settings`` as of ``Console``."""
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``, with safe text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


class _LogHandler(logging.Handler):
    """Warnings of this package as notes for people; with ``verbose`` every record, with its level and origin."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose
        self.setFormatter(logging.Formatter(logging.BASIC_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``; an error of that is not an error of the code that logs."""
        try:
            if self._verbose or not record.name.startswith("alexnet_deploy"):
                err.print(printable_lines(self.format(record)), soft_wrap=True)
            else:
                note(in_flags(record.getMessage()), style="yellow")
        except Exception:
            self.handleError(record)


def show_log(*, verbose: bool) -> None:
    """Show this package's warnings and the errors of all libraries; with ``verbose`` everything."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LogHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LogHandler(verbose=verbose))
    root.setLevel(logging.DEBUG if verbose else logging.ERROR)
    logging.getLogger("alexnet_deploy").setLevel(logging.NOTSET if verbose else logging.WARNING)


def printable_lines(text: str) -> str:
    """``printable`` for each line of ``text``."""
    return "\n".join(map(printable, text.split("\n")))


out = SafeConsole(width=None if _is_terminal else _WIDE)
err = SafeConsole(stderr=True)


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
