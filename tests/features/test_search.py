"""The search is exact: against the definition, with ties, blocks of any size and vectors without length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alexnet_deploy.features import search
from alexnet_deploy.features.search import Metric, nearest
from tests.features.test_index import SPACE


class Blocks:
    """An index in memory, in blocks of any size."""

    path, space = Path("memory"), SPACE

    def __init__(self, vectors: np.ndarray, at_once: int) -> None:
        self.vectors, self.at_once, self.rows = vectors, at_once, len(vectors)

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.rows, self.at_once):
            yield self.vectors[start : start + self.at_once]

    def names(self, rows: Sequence[int]) -> list[str]:
        return [str(row) for row in rows]


def by_definition(vectors: np.ndarray, query: np.ndarray, top: int, metric: Metric) -> tuple[list[int], list[float]]:
    a, b = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        scores = [float(np.linalg.norm(row - b)) for row in a]
        order = sorted(range(len(a)), key=lambda i: (scores[i], i))[:top]
    else:
        scores = [float(row @ b / np.linalg.norm(row) / np.linalg.norm(b)) if row.any() else 0.0 for row in a]
        order = sorted(range(len(a)), key=lambda i: (-scores[i], i))[:top]
    return order, [scores[i] for i in order]


whole = st.integers(-3, 3).map(float)  # whole numbers: many ties, and no rounding


@given(
    vectors=arrays.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(4)), elements=whole),
    queries=arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(4)), elements=whole),
    top=st.integers(1, 8),
    at_once=st.integers(1, 64),
)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_nearest_by_definition(
    metric: Metric, vectors: np.ndarray, queries: np.ndarray, top: int, at_once: int
) -> None:
    queries[~queries.any(axis=1)] = 1
    for query, found in zip(queries, nearest(Blocks(vectors, at_once), queries, top=top, metric=metric), strict=True):
        _, scores = by_definition(vectors, query, top, metric)
        np.testing.assert_allclose(found.scores, scores, atol=1e-12)  # float64 in another order
        assert len(set(found.rows)) == len(found.rows) == min(top, len(vectors))
        own = [by_definition(vectors[[row]], query, 1, metric)[1][0] for row in found.rows]
        np.testing.assert_allclose(own, found.scores, atol=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_is_1_on_features_like_ours(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse, positive, with neighbours that differ in the sixth digit, which float32 products put in any order."""
    rng = np.random.default_rng(0)
    vectors = np.maximum(rng.normal(-0.8, 1, (4000, 128)), 0).astype(np.float32)
    vectors[100:110] = vectors[0] * (1 + 1e-6 * rng.normal(size=(10, 128)))
    monkeypatch.setattr(search, "_CANDIDATE_BYTES", 1 << 16)  # several groups of queries
    found = nearest(Blocks(vectors, 700), vectors[:20], top=6, metric=metric)
    for query, each in zip(vectors[:20], found, strict=True):
        rows, scores = by_definition(vectors, query, 6, metric)
        np.testing.assert_allclose(each.scores, scores, atol=1e-9)
        assert list(each.rows) == rows
