"""One look for the tables of all commands, and one way to print what goes around them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.table import Table

from alexnet_deploy.cli.terminal import out
from alexnet_deploy.errors import printable


def table(*columns: str, gap: int = 2) -> Table:
    """An empty table with a bold head, ``gap`` blanks between its columns.

    A column whose name starts with ``>``, such as ``">ms"``, holds numbers: it is aligned to the right.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        if column.startswith(">"):
            # A head of several words may wrap; a number never does.
            grid.add_column(printable(column[1:]), justify="right", no_wrap=" " not in column)
        else:
            grid.add_column(printable(column), overflow="fold")
    return grid


def add_row(grid: Table, cells: Iterable[object], style: str | None = None) -> None:
    """Add a row; a file name or a label in it must not move the cursor of whoever reads the table."""
    grid.add_row(*(printable(str(cell)) for cell in cells), style=style)


def print_markdown(grid: Table) -> None:
    """A table of ``table`` for whatever reads Markdown."""
    heads = [str(column.header) for column in grid.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in grid.columns]
    rows = zip(*(map(str, column.cells) for column in grid.columns), strict=True)
    for cells in (heads, rules, *rows):
        print(f"| {' | '.join(cell.replace(chr(92), chr(92) * 2).replace('|', chr(92) + '|') for cell in cells)} |")


def print_json(value: object) -> None:
    """JSON for programs. An odd byte of a file name has no spelling but an ASCII escape; NaN is our bug."""
    print(json.dumps(value, indent=1, allow_nan=False))


def print_line(text: str, style: str | None = None) -> None:
    """One line of the result, never wrapped."""
    out.print(printable(text), style=style, soft_wrap=True)


def print_left_out(unreadable: tuple[str, ...]) -> None:
    """How many images could not be read, with the reason of the first."""
    if unreadable:
        print_line(f"{len(unreadable)} images left out: {unreadable[0]}", style="yellow")


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def number(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
