"""The search is exact: against the definition, with ties, blocks of any size and vectors without length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
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

    def all_names(self) -> Iterator[list[str]]:
        yield self.names(range(self.rows))


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
    top=st.integers(1, 80),
    at_once=st.integers(1, 64),
)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_nearest_by_definition(
    metric: Metric, vectors: np.ndarray, queries: np.ndarray, top: int, at_once: int
) -> None:
    queries[~queries.any(axis=1)] = 1
    for query, found in zip(queries, nearest(Blocks(vectors, at_once), queries, top=top, metric=metric), strict=True):
        rows, scores = by_definition(vectors, query, top, metric)
        np.testing.assert_allclose(found.scores, scores, atol=1e-12)  # float64 in another order
        assert len(set(found.rows)) == len(found.rows) == min(top, len(vectors))
        if metric == "l2":  # whole numbers: exact
            assert list(found.rows) == rows
        own = [by_definition(vectors[[row]], query, 1, metric)[1][0] for row in found.rows]
        np.testing.assert_allclose(own, found.scores, atol=1e-12)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 30),
    width=st.sampled_from([3, 70, 600]),
    offset=st.sampled_from([0.0, 1.0, 100.0, -3e4]),
    noise=st.sampled_from([1.0, 1e-2, 1e-4, 1e-6]),
    scale=st.sampled_from([1.0, 1e-20, 1e-30, 1e15, 1e30]),
    repeats=st.sampled_from([1, 2, 300]),
    top=st.sampled_from([1, 5, 40, 1000]),
    at_once=st.sampled_from([7, 90, 1000]),
)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_no_row_is_lost_to_rounding(
    metric: Metric,
    seed: int,
    width: int,
    offset: float,
    noise: float,
    scale: float,
    repeats: int,
    top: int,
    at_once: int,
) -> None:
    """Vectors that float32 products put in any order, or that they overflow with; some are there several times."""
    rng = np.random.default_rng(seed)
    base = offset + np.maximum(rng.normal(size=width), 0)
    few = ((base + noise * rng.normal(size=(600 // repeats, width))) * scale).astype(np.float32)
    vectors = few[rng.integers(0, len(few), 600)]
    query = vectors[rng.integers(0, 600)]
    (found,) = nearest(Blocks(vectors, at_once), query[None], top=top, metric=metric)
    a, b = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "cosine":  # of vectors of length 1 the distance tells more than the cosine, which is near 1
        a, b = a / np.sqrt(np.square(a).sum(1, keepdims=True)), b / np.sqrt(np.square(b).sum())
    distances = np.square(a - b).sum(1)  # roots of different ones may be equal
    assert list(found.rows) == np.lexsort((np.arange(600), distances))[:top].tolist()
    assert np.array_equal(vectors[found.rows[0]], query)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", ["opposite", "query far away", "no length", "nearest last"])
def test_vectors_at_the_ends_of_what_float32_holds(kind: str, metric: Metric) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 32)).astype(np.float32)
    query = vectors[7].copy()
    if kind == "opposite":
        vectors[20:400] = -query * rng.random((380, 1), np.float32)
    elif kind == "query far away":
        query *= np.float32(1e8)
    elif kind == "no length":
        vectors[20:400] = 0
    else:
        vectors = vectors[np.argsort(-np.linalg.norm(vectors - query, axis=1))]
    (found,) = nearest(Blocks(vectors, 60), query[None], top=450, metric=metric)
    _, scores = by_definition(vectors, query, 450, metric)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-12, atol=1e-12)  # float64 in another order


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_vectors_come_in_the_order_of_the_file(metric: Metric) -> None:
    vector = np.maximum(np.random.default_rng(0).normal(size=(1, 700)), 0).astype(np.float32)
    for at_once in (500, 11):
        (found,) = nearest(Blocks(np.repeat(vector, 500, axis=0), at_once), vector, top=5, metric=metric)
        assert found.rows == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_is_1_on_features_like_ours(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse, positive, with neighbours that differ in the sixth digit, which float32 products put in any order."""
    rng = np.random.default_rng(0)
    vectors = np.maximum(rng.normal(-0.8, 1, (4000, 128)), 0).astype(np.float32)
    vectors[100:110] = vectors[0] * (1 + 1e-6 * rng.normal(size=(10, 128)))
    monkeypatch.setattr(search, "_TABLE_BYTES", 1 << 14)  # a block comes in parts
    monkeypatch.setattr(search, "_SCORED_BYTES", 1 << 14)
    found = nearest(Blocks(vectors, 700), vectors[:20], top=6, metric=metric)
    for query, each in zip(vectors[:20], found, strict=True):
        rows, scores = by_definition(vectors, query, 6, metric)
        np.testing.assert_allclose(each.scores, scores, atol=1e-9)
        assert list(each.rows) == rows


def test_few_rows_are_compared_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on the rounding must leave out nearly all, or a search would take many times as long."""
    vectors = np.maximum(np.random.default_rng(0).normal(size=(20_000, 64)), 0).astype(np.float32)
    vectors[0] = 0  # no length
    compared = []

    def counting(query: np.ndarray, block: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
        compared.append(len(rows))
        return exactly(query, block, rows, metric)

    exactly = search.squared_distances
    monkeypatch.setattr(search, "squared_distances", counting)
    for metric in ("cosine", "l2"):
        nearest(Blocks(vectors, 5000), vectors[1:2], top=5, metric=metric)  # type: ignore[arg-type]
    assert sum(compared) < 400  # 5 are wanted; one in a hundred would be 400


@given(
    numbers=st.lists(st.integers(0, 6), min_size=1, max_size=200),
    top=st.integers(1, 9),
    at_once=st.integers(1, 210),
)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_nearest_of_each_group(metric: Metric, numbers: list[int], top: int, at_once: int) -> None:
    vectors = np.random.default_rng(len(numbers)).integers(-3, 4, (len(numbers), 5)).astype(np.float32)
    query = np.ones((1, 5), np.float32)
    groups = np.array(numbers)
    (found,) = nearest(Blocks(vectors, at_once), query, top=top, metric=metric, groups=groups)
    (every,) = nearest(Blocks(vectors, at_once), query, top=len(numbers), metric=metric)
    best = {}
    for row in every.rows:
        best.setdefault(numbers[row], row)
    assert list(found.rows) == list(best.values())[:top]
