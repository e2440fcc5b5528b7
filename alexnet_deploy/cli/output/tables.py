"""The style of the tables of all commands, and of the lines around them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from alexnet_deploy.cli.output.terminal import out
from alexnet_deploy.errors import printable


def table(*columns: str, gap: int = 2) -> Table:
    """An empty table with bold headings, ``gap`` blanks between its columns.

    A column whose name starts with ``>``, such as ``">ms"``, holds numbers: it is aligned to the right.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        if column.startswith(">"):
            # A long heading of several words may wrap. On a narrow terminal names wrap before numbers are cut off.
            wraps = " " in column and len(column) > len(">top-1 %")
            grid.add_column(printable(column[1:]), justify="right", no_wrap=not wraps)
        else:
            grid.add_column(printable(column), overflow="fold")
    return grid


def add_row(grid: Table, cells: Iterable[object], style: str | None = None) -> None:
    """Add a row; control characters of a file name or a label are escaped, as they could move the cursor."""
    grid.add_row(*(printable(str(cell)) for cell in cells), style=style)


def print_markdown(grid: Table) -> None:
    """Print a table of ``table`` as Markdown."""
    heads = [str(column.header) for column in grid.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in grid.columns]
    rows = zip(*(map(str, column.cells) for column in grid.columns), strict=True)
    for cells in (heads, rules, *rows):
        print(f"| {' | '.join(cell.replace(chr(92), chr(92) * 2).replace('|', chr(92) + '|') for cell in cells)} |")


def print_json(value: object) -> None:
    """Print JSON for programs. It is ASCII, as a name may hold odd bytes and a terminal shows it; NaN is our bug."""
    print(json.dumps(value, indent=1, allow_nan=False, default=_json_ready))


def _json_ready(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dataclasses.asdict(value)


def print_line(text: str, style: str | None = None) -> None:
    """Print one line of the result, never wrapped."""
    out.print(printable(text), style=style, soft_wrap=True)


def print_left_out(unreadable: tuple[str, ...]) -> None:
    """Print how many images could not be read, with the reason of the first."""
    if unreadable:
        print_line(f"{len(unreadable)} images left out: {unreadable[0]}", style="yellow")


def print_copies_left_out(copies: int) -> None:
    """One line if files were left out because of their content."""
    if copies:
        print_line(
            f"{copies} files left out: copies of other images (same content), of which one counts, or of an image that "
            "lies in folders of several classes",
            style="yellow",
        )


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def number(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals, or ``-`` for None."""
    return "-" if value is None else f"{value:.{digits}f}"
