"""The nearest vectors of a file of features: every one of them is looked at, so none is missed.

A block of the file is multiplied with the queries in float32. The best rows of that, and some more, are then compared
in float64, by which they are ordered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.features.blocks import FeatureIndex

# Legend: Q query, N row of the index, C candidate, F feature

Metric = Literal["cosine", "l2"]
"""The cosine of the angle between two vectors, or the Euclidean distance, as in figure 4 of the paper."""
_MORE = 32
"""Candidates beyond those asked for: in float32 rows change places whose distances differ by less than its rounding."""
_CANDIDATE_BYTES = 256 << 20
"""Vectors of candidates in memory."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows of an index, the nearest first, and the cosine or the distance of each."""

    rows: tuple[int, ...]
    scores: tuple[float, ...]


def nearest(index: FeatureIndex, queries_QF: NDArray[np.float32], *, top: int, metric: Metric) -> list[Nearest]:
    """The ``top`` nearest rows of each query; of equal ones the first in the file.

    Queries must be finite, and for ``"cosine"`` not all 0. Memory holds a block of the index, and the candidates.
    """
    width = queries_QF.shape[1]
    kept = min(index.rows, top + _MORE)
    at_once = max(1, _CANDIDATE_BYTES // (4 * width * kept))
    found: list[Nearest] = []
    for start in range(0, len(queries_QF), at_once):
        search = _Search(queries_QF[start : start + at_once], kept, metric)
        for vectors_NF in index.blocks():
            search.add(vectors_NF)
        found += search.result(top)
    return found


@dataclass
class _Search:
    queries_QF: NDArray[np.float32]
    kept: int
    metric: Metric
    seen: int = 0
    rows_QC: NDArray[np.int64] = field(init=False)
    keys_QC: NDArray[np.float32] = field(init=False)
    vectors_QCF: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        queries, width = self.queries_QF.shape
        self.rows_QC = np.zeros((queries, 0), np.int64)
        self.keys_QC = np.zeros((queries, 0), np.float32)
        self.vectors_QCF = np.zeros((queries, 0, width), np.float32)

    def add(self, vectors_NF: NDArray[np.float32]) -> None:
        """Keep the candidates among the vectors that come next in the index."""
        keys_QN = self._keys(vectors_NF)
        count = min(self.kept, len(vectors_NF))
        best_QC = np.argpartition(keys_QN, count - 1, axis=1)[:, :count]
        rows_QC = np.concatenate([self.rows_QC, best_QC + self.seen], axis=1)
        keys_QC = np.concatenate([self.keys_QC, np.take_along_axis(keys_QN, best_QC, axis=1)], axis=1)
        order_QC = np.lexsort((rows_QC, keys_QC))[:, : self.kept]
        before = self.rows_QC.shape[1]
        self.vectors_QCF = np.stack(
            [
                np.stack([old_CF[c] if c < before else vectors_NF[best_C[c - before]] for c in order_C])
                for old_CF, best_C, order_C in zip(self.vectors_QCF, best_QC, order_QC, strict=True)
            ]
        )
        self.rows_QC = np.take_along_axis(rows_QC, order_QC, axis=1)
        self.keys_QC = np.take_along_axis(keys_QC, order_QC, axis=1)
        self.seen += len(vectors_NF)

    def _keys(self, vectors_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """A number per pair that grows with the distance."""
        products_QN = self.queries_QF @ vectors_NF.T
        squares_N = np.einsum("nf,nf->n", vectors_NF, vectors_NF)
        if self.metric == "l2":
            keys_QN: NDArray[np.float32] = squares_N - 2 * products_QN
            return keys_QN
        lengths_N = np.sqrt(squares_N)
        np.divide(products_QN, -lengths_N, out=products_QN, where=lengths_N > 0)  # without length the product is 0
        return products_QN

    def result(self, top: int) -> list[Nearest]:
        """The nearest rows of each query."""
        found = []
        for query_F, rows_C, vectors_CF in zip(self.queries_QF, self.rows_QC, self.vectors_QCF, strict=True):
            scores_C = score(query_F, vectors_CF, self.metric)
            order = np.lexsort((rows_C, scores_C if self.metric == "l2" else -scores_C))[:top]
            found.append(Nearest(tuple(rows_C[order].tolist()), tuple(scores_C[order].tolist())))
        return found


def score(query_F: NDArray[np.floating], vectors_CF: NDArray[np.floating], metric: Metric) -> NDArray[np.float64]:
    """The distance of a query to each vector, or the cosine (0 for a vector without length), in float64."""
    query_F, vectors_CF = query_F.astype(np.float64), vectors_CF.astype(np.float64)
    if metric == "l2":
        distances_C: NDArray[np.float64] = np.linalg.norm(vectors_CF - query_F, axis=1)
        return distances_C
    lengths_C = np.linalg.norm(vectors_CF, axis=1) * np.linalg.norm(query_F)
    cosines_C: NDArray[np.float64] = np.divide(
        vectors_CF @ query_F, lengths_C, out=np.zeros(len(vectors_CF)), where=lengths_C > 0
    )
    return cosines_C
