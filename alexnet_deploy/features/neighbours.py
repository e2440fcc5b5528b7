"""Images whose features are nearest to those of a query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, UsageError, require_one_of, require_positive
from alexnet_deploy.features.blocks import FeatureIndex
from alexnet_deploy.features.extract import feature_rows, images_of
from alexnet_deploy.features.index import open_index
from alexnet_deploy.features.search import Metric, Nearest, nearest
from alexnet_deploy.features.space import difference_between, space_of
from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.engine import OpenEngine

# Legend: Q query, F feature

TOP = 5
_NO_DIRECTION = "all its features are 0, so it has no direction to compare; use `metric` l2"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A file of the index, and its cosine with the query, or its Euclidean distance from it."""

    file: str
    score: float


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest files of a query, the nearest first, or one line with the reason that there are none."""

    query: str
    neighbours: tuple[Neighbour, ...]
    error: str | None = None

    def as_row(self, metric: Metric) -> dict[str, Any]:
        """JSON-ready; a score is called ``cosine`` or ``distance``."""
        called = "cosine" if metric == "cosine" else "distance"
        found = [{"file": each.file, called: each.score} for each in self.neighbours]
        return {"query": self.query, "neighbours": found, "error": self.error}


def find_neighbours(
    opened: OpenEngine,
    queries: str | Path | Iterable[Path | Source | str],
    index: str | Path,
    *,
    top: int = TOP,
    metric: Metric = "cosine",
    batch: int | None = None,
) -> list[Neighbours]:
    """The ``top`` files of ``index`` that are nearest to each of ``queries``, of all its rows.

    ``opened`` is the engine of the index, up to its layer. ``queries`` are files, folders and patterns.
    A file that the index has several times counts once. A query that cannot be read has an ``error``.

    Raises the errors of ``open_index``, and InputError if the features of the index cannot be compared with those of
    ``opened``.
    """
    with open_index(Path(index)) as found:
        require_same_space(found, opened)
        return neighbours_in(found, opened, images_of(queries), top=top, metric=metric, batch=batch)


def require_same_space(index: FeatureIndex, opened: OpenEngine) -> None:
    """InputError if the features of ``opened`` cannot be compared with those of ``index``."""
    reason = difference_between(index.space, space_of(opened))
    if reason is not None:
        raise InputError(
            f"{index.path}: {reason}; name its engine as `engine`, or make it again with this one: alexnet-deploy "
            "features"
        )


def neighbours_in(
    index: FeatureIndex,
    opened: OpenEngine,
    queries: Iterable[Path | Source],
    *,
    top: int = TOP,
    metric: Metric = "cosine",
    batch: int | None = None,
) -> list[Neighbours]:
    """``find_neighbours`` in an index that is open, and of the space of ``opened``."""
    require_positive(top=top)
    require_one_of(("cosine", "l2"), metric=metric)
    answers: list[Neighbours] = []
    vectors = []
    for read in feature_rows(opened, queries, batch=batch):
        answers += [Neighbours(file, (), error) for file, error in zip(read.files, read.errors, strict=True)]
        vectors.append(read.vectors_NF)
    if not answers:
        raise UsageError("no query is named; give images as `queries`")
    queries_QF = np.concatenate(vectors)
    asked = [number for number, answer in enumerate(answers) if answer.error is None]
    if metric == "cosine":
        lost = [number for number, query_F in zip(asked, queries_QF, strict=True) if not query_F.any()]
        for number in lost:
            file = answers[number].query
            answers[number] = Neighbours(file, (), f"{file}: {_NO_DIRECTION}")
        queries_QF = queries_QF[[number not in lost for number in asked]]
        asked = [number for number in asked if number not in lost]
    for number, neighbours in zip(asked, _distinct(index, queries_QF, top, metric), strict=True):
        answers[number] = Neighbours(answers[number].query, neighbours)
    return answers


def _distinct(
    index: FeatureIndex, queries_QF: NDArray[np.float32], top: int, metric: Metric
) -> list[tuple[Neighbour, ...]]:
    """The ``top`` nearest files of each query; rows of one file count once."""
    top = min(top, index.rows)
    found = nearest(index, queries_QF, top=top, metric=metric)
    names = _names_of(index, found)
    if any(len({names[row] for row in each.rows}) < top for each in found):
        groups = _files(index)  # not at once: few indices have a file twice, and all names take memory
        top = min(top, int(groups.max()) + 1)
        found = nearest(index, queries_QF, top=top, metric=metric, groups=groups)
        names = _names_of(index, found)
    return [
        tuple(Neighbour(names[row], score) for row, score in zip(each.rows, each.scores, strict=True)) for each in found
    ]


def _names_of(index: FeatureIndex, found: list[Nearest]) -> dict[int, str]:
    rows = sorted({row for each in found for row in each.rows})
    return dict(zip(rows, index.names(rows), strict=True))


def _files(index: FeatureIndex) -> NDArray[np.int64]:
    """A number per row that tells the files apart."""
    numbers: dict[str, int] = {}
    return np.fromiter(
        (numbers.setdefault(name, len(numbers)) for names in index.all_names() for name in names), np.int64, index.rows
    )
