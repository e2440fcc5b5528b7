"""Pictures in rows, as in figure 4 of the paper: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import InputError
from alexnet_deploy.features.blocks import path_of
from alexnet_deploy.features.duplicates import Duplicates
from alexnet_deploy.features.neighbours import Neighbours
from alexnet_deploy.features.search import Metric
from alexnet_deploy.features.space import FeatureSpace
from alexnet_deploy.pages.html import environment, write_html
from alexnet_deploy.pages.picture import Picture, embed

_SIDE = 224
"""Pixels of the longer side: some 10 KB per picture."""
_MOST = 2000
"""Pictures of a page, some 20 MB; a browser takes no more in its stride."""


@dataclass(frozen=True, slots=True)
class _Cell:
    file: str
    caption: str
    picture: Picture | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _Row:
    first: _Cell
    others: tuple[_Cell, ...]


def write_neighbours(answers: Sequence[Neighbours], metric: Metric, space: FeatureSpace, path: Path) -> None:
    """Write each query with its neighbours beside it to ``path``, atomically.

    Pictures come from the files that are named; one that cannot be read is named with the reason. Raises
    UnavailableError if ``path`` cannot be written.
    """
    word = "cosine" if metric == "cosine" else "distance"
    rows = [
        [(each.query, "query", each.error), *((n.file, f"{word} {n.score:.3f}", None) for n in each.neighbours)]
        for each in answers
    ]
    what = "the cosine of the angle between" if metric == "cosine" else "the Euclidean distance of"
    intro = (
        f"Each row has a query and the images of the index that are nearest to it, by {what} the output of layer "
        f"{space.features.layer} of {space.engine} ({space.precision})."
    )
    _write("Nearest neighbours", intro, rows, path)


def write_duplicates(found: Duplicates, path: Path) -> None:
    """Write the groups of copies to ``path``, the exact ones first; as ``write_neighbours``."""
    exact = [[(file, "same bytes", None) for file in group] for group in found.exact]
    near = [[(each.first, f"alike {each.alike:.3f}", None), (each.second, "", None)] for each in found.near]
    intro = (
        f"{found.images} images: {len(exact)} groups of files with the same bytes, {len(near)} pairs that look alike "
        "(1 is the same picture)."
    )
    _write("Copies", intro, [*exact, *near], path)


def _write(title: str, intro: str, rows: Sequence[Sequence[tuple[str, str, str | None]]], path: Path) -> None:
    shown: list[_Row] = []
    pictures = 0
    for row in rows:
        if shown and pictures + len(row) > _MOST:
            break
        pictures += len(row)
        first, *others = _cells(row[:_MOST])
        shown.append(_Row(first, tuple(others)))
    if len(shown) < len(rows):
        intro += f" The first {len(shown)} of {len(rows)} rows are shown."
    template = environment("alexnet_deploy.features").get_template("sheet.html.j2")
    write_html(template.render(title=title, intro=intro, rows=shown), path)


def _cells(row: Iterable[tuple[str, str, str | None]]) -> list[_Cell]:
    cells = []
    for file, caption, error in row:
        picture = None
        if error is None:
            try:
                picture = embed(path_of(file), _SIDE)
            except (InputError, ValueError) as exc:  # ValueError: a name with a NUL byte
                error = str(exc)
        cells.append(_Cell(file, caption, picture, error))
    return cells
