"""Classes of unequal size: what an epoch shows of each, and what a mistake in each costs."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.balance import balanced_order, class_weights
from training.data.loader import ResumableBatchSampler

RECORDED = [[(1, 7), (1, 1), (1, 3), (1, 4)], [(2, 1), (2, 5), (2, 3), (2, 4)]]
sizes = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


def targets_of(sizes: list[int]) -> list[int]:
    return [number for number, size in enumerate(sizes) for _ in range(size)]


@given(sizes, st.integers(1, 60), st.integers(0, 3))
def test_an_epoch_shows_all_classes_equally_often_and_repeats_no_image_early(
    sizes: list[int], length: int, seed: int
) -> None:
    targets = targets_of(sizes)
    views = balanced_order(targets, length, np.random.default_rng(seed))
    assert len(views) == length
    assert len(set(views.tolist())) == length, "each view has crops of its own"
    shown = Counter(targets[view % len(targets)] for view in views)
    shares = [shown[number] for number, size in enumerate(sizes) if size]
    assert max(shares) - min(shares) <= 1
    for number, size in enumerate(sizes):
        seen = Counter(view % len(targets) for view in views.tolist() if targets[view % len(targets)] == number)
        counts = [seen[image] for image, target in enumerate(targets) if target == number]
        assert not size or max(counts) - min(counts) <= 1


@given(sizes)
def test_the_weights_of_the_loss_give_each_class_the_same_total(sizes: list[int]) -> None:
    targets = targets_of(sizes)
    weights = class_weights(targets, len(sizes))
    totals = [size * float(weight) for size, weight in zip(sizes, weights, strict=True) if size]
    assert totals == pytest.approx([totals[0]] * len(totals))
    assert sum(totals) == pytest.approx(len(targets))  # so the learning rate means the same as without weights
    assert all(weight == 0 for size, weight in zip(sizes, weights, strict=True) if not size)


class TestSampler:
    def test_repeats_show_each_image_so_often_per_epoch(self) -> None:
        sampler = ResumableBatchSampler(10, 4, 0, 0, 0, 1, repeats=3)
        assert sampler.steps_per_epoch == 7
        first = list(chain(*islice(sampler, 7)))
        assert {epoch for epoch, _ in first} == {0}
        assert len({view for _, view in first}) == 28
        assert max(Counter(view % 10 for _, view in first).values()) == 3

    def test_without_repeats_the_order_is_that_of_earlier_runs(self) -> None:
        """Recorded before an epoch could repeat an image: another order would end the runs that people have begun."""
        sampler = ResumableBatchSampler(10, 4, 7, 3, 0, 1)
        assert list(islice(sampler, 2)) == RECORDED

    @given(st.integers(1, 4), st.integers(0, 20), st.booleans())
    def test_a_resumed_run_goes_on_in_the_same_order(self, repeats: int, first: int, balanced: bool) -> None:
        targets = [0] * 8 + [1] * 2 if balanced else None

        def steps(start: int, number: int) -> list[list[tuple[int, int]]]:
            sampler = ResumableBatchSampler(10, 4, 0, start, 0, 1, repeats=repeats, balanced=targets)
            return list(islice(sampler, number))

        assert steps(0, first + 4)[first:] == steps(first, 4)

    def test_a_rare_class_is_half_of_every_balanced_epoch(self) -> None:
        targets = [0] * 18 + [1] * 2
        sampler = ResumableBatchSampler(20, 4, 0, 0, 0, 1, balanced=targets)
        shown = Counter(targets[view % 20] for _, view in chain(*islice(sampler, sampler.steps_per_epoch)))
        assert shown == {0: 10, 1: 10}
