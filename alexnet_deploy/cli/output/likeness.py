"""Which images are alike, for people: neighbours of a query, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet_deploy.cli.output.tables import add_row, print_line, table
from alexnet_deploy.cli.output.terminal import out

if TYPE_CHECKING:
    from alexnet_deploy.features.duplicates import Duplicates
    from alexnet_deploy.features.neighbours import Neighbours


def print_neighbours(answers: Sequence[Neighbours], metric: str) -> None:
    """A table per query; ``metric`` is cosine or l2."""
    for answer in answers:
        print_line(answer.error or answer.query, style="red" if answer.error else "bold")
        if answer.neighbours:
            grid = table(">cosine" if metric == "cosine" else ">distance", "file")
            for each in answer.neighbours:
                add_row(grid, (f"{each.score:.4f}", each.file))
            out.print(grid)


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def print_duplicates(found: Duplicates) -> None:
    """The groups of exact copies and a table of near ones."""
    copies = sum(len(group) - 1 for group in found.exact)
    print_line(
        f"{_count(found.images, 'image')}: {_count(copies, 'exact copy', 'exact copies')} in "
        f"{_count(len(found.exact), 'group')}, {_count(len(found.near), 'near pair')}"
    )
    for group in found.exact:
        print_line(f"same bytes: {'  '.join(group)}")
    if found.near:
        grid = table(">alike", ">pixels", ">features", "first", "second")
        for each in found.near:
            cells = (f"{each.alike:.3f}", f"{each.pixels:.3f}", f"{each.features:.3f}", each.first, each.second)
            add_row(grid, cells)
        out.print(grid)
