"""The nearest vectors of a file of features: every one of them is looked at, so none is missed.

A block of the file is multiplied with the queries in float32. How far rounding can have moved such a product is known,
so a row is left out only where it cannot be among the nearest. All others are compared in float64, by the difference
of the two vectors, which decides their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.features.blocks import FeatureIndex

# Legend: Q query, N row of a block, C candidate, K kept, F feature

Metric = Literal["cosine", "l2"]
"""The cosine of the angle between two vectors, or the Euclidean distance, as in figure 4 of the paper."""
_TABLE_BYTES = 64 << 20
"""Of the table of products at a time."""
_SCORED_BYTES = 4 << 20
"""Vectors in float64 at a time, about what stays in a cache."""
_SQUARES = (1e-30, 1e30)
"""Squared lengths for which no product of float32 overflows, and those that underflow do not matter."""
_WIDEST = 0.1
"""Relative error above which products say nothing."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows of an index, the nearest first, and the cosine or the distance of each."""

    rows: tuple[int, ...]
    scores: tuple[float, ...]


def nearest(
    index: FeatureIndex,
    queries_QF: NDArray[np.float32],
    *,
    top: int,
    metric: Metric,
    groups: NDArray[np.int64] | None = None,
) -> list[Nearest]:
    """The ``top`` nearest rows of each query; of equal ones the first in the file.

    With ``groups``, a number per row of the index, only the nearest row of each group counts.

    Queries must be finite, and for ``"cosine"`` not all 0. Memory holds a block of the index, a table of products, and
    the rows found so far.
    """
    searches = [_Search(query_F, top, metric, groups) for query_F in queries_QF]
    at_once = max(1, _TABLE_BYTES // (4 * max(1, len(searches))))
    first = 0
    for vectors_NF in index.blocks():
        for start in range(0, len(vectors_NF), at_once):
            part_NF = vectors_NF[start : start + at_once]
            rows = _Rows(part_NF, first)
            # Rows whose numbers are too large or too small for this are compared in float64, whatever comes out here.
            with np.errstate(over="ignore", invalid="ignore"):
                for search, products_N in zip(searches, queries_QF @ part_NF.T, strict=True):
                    search.add(rows, products_N)
            first += len(part_NF)
    return [search.result() for search in searches]


class _Rows:
    """Rows that come next in the index, and what all queries need of them."""

    def __init__(self, vectors_NF: NDArray[np.float32], first: int) -> None:
        self.vectors_NF, self.first = vectors_NF, first
        with np.errstate(over="ignore"):
            self.squares_N = np.einsum("nf,nf->n", vectors_NF, vectors_NF)
        least, most = _SQUARES
        self.unsure_N = ~((self.squares_N >= least) & (self.squares_N <= most))
        self.squares_N[self.unsure_N] = 1
        self.lengths_N = np.sqrt(self.squares_N)


@dataclass
class _Search:
    """One query. Its keys grow with the distance.

    In float32 they are |v|^2 - 2 qv for the distance and -qv / |v| for the cosine. In float64 they are the square of
    the distance, of vectors of length 1 for the cosine: a cosine near 1 would lose half of its digits.
    """

    query_F: NDArray[np.float32]
    top: int
    metric: Metric
    groups: NDArray[np.int64] | None = None
    rows_K: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    keys_K: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    limit: float = np.inf
    """Float32 keys above it, by more than their error, are of rows that are not wanted."""

    def __post_init__(self) -> None:
        width = len(self.query_F)
        self.square = float(np.square(self.query_F, dtype=np.float64).sum())
        # A product of float32 vectors is wrong by F * 2^-24 of |v| |q| at most, in whatever order it is summed (Higham,
        # Accuracy and Stability of Numerical Algorithms, 3.1). Twice that and a little, for numbers that underflow and
        # for the few operations that follow.
        self.relative = (2 * width + 16) * 2.0**-24
        self.slack = 4 * (width + 8) * 2.0**-53  # the same of the keys in float64
        self.is_unsure = self.relative > _WIDEST or self.square > _SQUARES[1]

    def add(self, rows: _Rows, products_N: NDArray[np.float32]) -> None:
        """Keep the nearest of those so far and of ``rows``."""
        keys_N, errors_N = self._keys(rows, products_N)
        found_C = np.flatnonzero(keys_N <= self.limit + errors_N)
        if len(found_C) > 2 * self.top + 64:
            bound = self._bound(keys_N[found_C] + errors_N[found_C], found_C + rows.first)
            found_C = found_C[keys_N[found_C] <= bound + errors_N[found_C]]
        if not len(found_C):
            return
        keys_C = squared_distances(self.query_F, rows.vectors_NF, found_C, self.metric)
        rows_K = np.concatenate([self.rows_K, found_C + rows.first])
        keys_K = np.concatenate([self.keys_K, keys_C])
        order_K = np.lexsort((rows_K, keys_K))
        order_K = order_K[self._first_of_groups(rows_K[order_K])][: self.top]
        self.rows_K, self.keys_K = rows_K[order_K], keys_K[order_K]
        if len(self.rows_K) == self.top and not self.is_unsure:
            self.limit = self._limit(float(self.keys_K[-1]))

    def _keys(self, rows: _Rows, products_N: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The float32 key of each row, and how far it can be from the truth."""
        length = float(np.sqrt(self.square))
        if self.metric == "l2":
            keys_N = rows.squares_N - 2 * products_N
            errors_N = self.relative * (rows.squares_N + (2 * length) * rows.lengths_N)
        else:
            keys_N = products_N / -rows.lengths_N
            errors_N = np.full_like(keys_N, 2 * self.relative * length)
        unsure = slice(None) if self.is_unsure else rows.unsure_N
        keys_N[unsure], errors_N[unsure] = 0, np.inf
        return keys_N, errors_N

    def _limit(self, key: float) -> float:
        """The float32 key, as far as float64 tells, of a row whose float64 key is ``key``."""
        if self.metric == "l2":
            return key - self.square + self.slack * (key + self.square)
        return (key / 2 - 1 + self.slack) * float(np.sqrt(self.square))

    def _bound(self, most_C: NDArray[np.float32], rows_C: NDArray[np.int64]) -> float:
        """A limit, by the rows themselves, whose keys are at most ``most_C``."""
        if self.groups is None:
            key = float(np.partition(most_C, self.top - 1)[self.top - 1])
        else:
            order_C = np.argsort(most_C)
            first_K = self._first_of_groups(rows_C[order_C])
            key = float(most_C[order_C[first_K[self.top - 1]]]) if len(first_K) >= self.top else np.inf
        # ``key`` has no part of the square of the query, which float64 keys have.
        bound = key + self.slack * (abs(key) + 2 * self.square)
        return min(self.limit, bound)

    def _first_of_groups(self, rows_C: NDArray[np.int64]) -> NDArray[np.intp]:
        """The positions of rows of which none of the same group comes before."""
        if self.groups is None:
            return np.arange(len(rows_C))
        return np.sort(np.unique(self.groups[rows_C], return_index=True)[1])

    def result(self) -> Nearest:
        """The nearest rows."""
        scores_K = np.sqrt(self.keys_K) if self.metric == "l2" else 1 - self.keys_K / 2
        return Nearest(tuple(self.rows_K.tolist()), tuple(scores_K.tolist()))


def squared_distances(
    query_F: NDArray[np.float32], vectors_NF: NDArray[np.float32], rows_C: NDArray[np.intp], metric: Metric
) -> NDArray[np.float64]:
    """The squared distance of a query to some rows in float64; for the cosine that of both at length 1.

    That is 2 - 2 cos. A vector without length has a cosine of 0. Equal vectors get equal numbers, which a matrix
    product does not promise: each row is summed by itself.
    """
    wanted_F = query_F.astype(np.float64)
    if metric == "cosine":
        wanted_F /= np.sqrt(np.square(wanted_F).sum())
    found_C = np.empty(len(rows_C))
    at_once = max(1, _SCORED_BYTES // (8 * len(query_F)))
    for start in range(0, len(rows_C), at_once):
        vectors_CF = vectors_NF[rows_C[start : start + at_once]].astype(np.float64)
        if metric == "cosine":
            lengths_C1 = np.sqrt(np.square(vectors_CF).sum(1, keepdims=True))
            np.divide(vectors_CF, lengths_C1, out=vectors_CF, where=lengths_C1 > 0)
        vectors_CF -= wanted_F
        keys_C = np.square(vectors_CF, out=vectors_CF).sum(1)
        if metric == "cosine":
            keys_C[lengths_C1[:, 0] == 0] = 2
        found_C[start : start + at_once] = keys_C
    return found_C
