"""Two maps of one photo: Spearman's rank correlation, the shared tenth, and what they mean."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_deploy.explanation.agreement import Agreement, agreement

RAMP = np.arange(100.0).reshape(10, 10)


def test_ranks_count_not_sizes() -> None:
    found = agreement(RAMP, np.exp(RAMP / 10))
    assert found.rank_correlation == pytest.approx(1)
    assert found.shared_top_percent == 100


def test_the_opposite_order_shares_nothing() -> None:
    found = agreement(RAMP, 99 - RAMP)
    assert found.rank_correlation == pytest.approx(-1)
    assert found.shared_top_percent == 0
    assert "do not assume" in found.meaning()


def test_spearman_by_hand() -> None:
    # 1 - 6 * sum of squared differences of ranks / n (n^2 - 1), with differences 1, 1, 0, 0
    assert agreement(np.array([[1.0, 2, 3, 4]]), np.array([[2.0, 1, 3, 4]])).rank_correlation == pytest.approx(0.8)


@pytest.mark.parametrize("flat", [(np.zeros((3, 3)), RAMP[:3, :3]), (RAMP[:3, :3], np.full((3, 3), 0.2))])
def test_a_map_that_is_the_same_everywhere_has_no_correlation(flat: tuple[np.ndarray, np.ndarray]) -> None:
    found = agreement(*flat)
    assert found.rank_correlation is None
    assert found.verdict == "too weak"


@pytest.mark.parametrize(
    ("correlation", "drop", "verdict", "words"),
    [
        (0.95, 0.3, "same", "same parts"),
        (0.7, 0.3, "similar", "roughly"),
        (0.2, 0.3, "different", "do not assume"),
        (0.95, 0.04, "too weak", "try a larger patch"),
    ],
)
def test_what_a_correlation_means_is_said_in_words(correlation: float, drop: float, verdict: str, words: str) -> None:
    found = Agreement(correlation, 50, drop)
    assert found.verdict == verdict
    assert words in found.meaning()


def test_the_weaker_of_both_decides_whether_ranks_mean_anything() -> None:
    assert agreement(RAMP / 100, RAMP / 10_000).largest_drop == pytest.approx(0.0099)
