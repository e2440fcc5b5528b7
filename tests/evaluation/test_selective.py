"""Risk over coverage and outliers: numbers by hand, and what ties do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_deploy.evaluation.selective import aurc, auroc, fpr_at_95, risk_curve, risks, threshold_for

SCORES = hnp.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0]))


def test_risks_by_hand() -> None:
    """The most certain answer is right, the next wrong, the last right."""
    score_N, right_N = np.array([1.0, 3.0, 2.0]), np.array([True, True, False])
    assert risks(score_N, right_N).tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert aurc(score_N, right_N) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert risk_curve(score_N, right_N) == tuple(
        (pytest.approx(coverage), pytest.approx(risk))
        for coverage, risk in [(100 / 3, 0), (200 / 3, 50), (100, 100 / 3)]
    )


@given(SCORES, st.integers(0, 99))
def test_images_of_one_score_count_the_same_in_any_order(score_N: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right_N, mixed = rng.random(len(score_N)) < 0.6, rng.permutation(len(score_N))
    assert risks(score_N[mixed], right_N[mixed]) == pytest.approx(risks(score_N, right_N))


@given(SCORES, SCORES)
def test_auroc_is_the_chance_of_a_pair(known_N: np.ndarray, outlier_O: np.ndarray) -> None:
    pairs = np.sign(known_N[:, None] - outlier_O[None]) / 2 + 0.5
    assert auroc(known_N, outlier_O) == pytest.approx(pairs.mean())


def test_fpr_by_hand() -> None:
    known_N = np.arange(1.0, 101.0)  # 95 of them are at least 6
    assert fpr_at_95(known_N, np.array([5.9, 6.0, 7.0, 0.0])) == 0.5


def test_a_threshold_keeps_no_image_more_than_its_share() -> None:
    """In binary 0.07 * 100 is more than 7."""
    score_N = np.arange(1.0, 101.0)
    assert [threshold_for(score_N, kept / 100) for kept in range(1, 101)] == [101 - kept for kept in range(1, 101)]


@given(SCORES, st.floats(0.01, 1))
def test_a_threshold_keeps_at_least_its_share(score_N: np.ndarray, coverage: float) -> None:
    threshold = threshold_for(score_N, coverage)
    assert (score_N >= threshold).mean() >= coverage - 1e-9
    above = score_N[score_N > threshold]
    assert len(above) < coverage * len(score_N) or not len(above)
