"""The calibration error without chance: near the truth on drawn answers, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.evaluation.calibration_error import calibration_error, debiased_error


def drawn(images: int, distance: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities, and answers that are right less often by ``distance``."""
    rng = np.random.default_rng(seed)
    top_N = rng.uniform(0.4, 1.0, images)
    return top_N, rng.random(images) < top_N - distance


@pytest.mark.parametrize(("distance", "allowed"), [(0.0, 0.03), (0.05, 0.01)])
def test_it_is_near_the_truth_where_chance_inflates_the_usual_one(distance: float, allowed: float) -> None:
    """Means of twenty draws of 1,000 answers. At 0 no estimate can fall below it, and two thirds of the chance stay."""
    pairs = [drawn(1000, distance, seed) for seed in range(20)]
    usual = float(np.mean([calibration_error(*pair) for pair in pairs]))
    found = float(np.mean([debiased_error(*pair).percent / 100 for pair in pairs]))
    assert abs(found - distance) < allowed
    assert abs(found - distance) < abs(usual - distance)


def test_the_interval_holds_the_truth_most_of_the_time() -> None:
    held = 0
    for seed in range(40):
        interval = debiased_error(*drawn(1000, 0.05, seed)).interval
        held += interval.low <= 5 <= interval.high
    assert held >= 34  # 38 are expected of an interval of 95 %; fewer than 34 are a chance of 2 %


@given(st.integers(1, 40), st.integers(0, 20))
def test_few_answers_give_a_number_as_well(images: int, seed: int) -> None:
    found = debiased_error(*drawn(images, 0.1, seed))
    assert 0 <= found.interval.low <= found.percent <= found.interval.high
    assert found.percent <= 100


def test_the_order_of_the_images_is_no_matter() -> None:
    top_N, right_N = drawn(300, 0.1, 1)
    mixed = np.random.default_rng(0).permutation(300)
    assert debiased_error(top_N, right_N) == debiased_error(top_N[mixed], right_N[mixed])
