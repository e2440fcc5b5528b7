"""Intervals and tests against numbers that others published, and against what must hold for any counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.evaluation.statistics import PairedCounts, wilson_percent

COUNT = st.integers(0, 3000)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_as_published(right: int, images: int, low: float, high: float) -> None:
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, Stat Med 17:857-872, table I."""
    found = wilson_percent(right, images)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)  # printed to two decimals


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 5.69, 34.04),  # Newcombe 1998, Stat Med 17:2635-2650, table II, method 10
        ((59, 6, 16, 80), -11.86, -0.46),  # Fagerland, Lydersen, Laake 2017, Statistical analysis of contingency tables
    ],
)
def test_paired_difference_as_published(table: tuple[int, int, int, int], low: float, high: float) -> None:
    """Published as first minus second; here the second engine comes first."""
    found = PairedCounts(*table).points_interval
    assert (-found.high, -found.low) == pytest.approx((low, high), abs=0.005)  # printed to two decimals


def test_a_correlation_below_its_correction_is_none() -> None:
    """3 * 2 - 2 * 2 = 2 is less than half of 9 images: the two score intervals, as of answers to other images."""
    alone = wilson_percent(5, 9)
    found = PairedCounts(3, 2, 2, 2).points_interval
    reach = math.hypot(500 / 9 - alone.low, alone.high - 500 / 9)
    assert (found.low, found.high) == pytest.approx((-reach, reach))


def test_mcnemar_as_published() -> None:
    """1 and 7 discordant pairs (Bentur et al. 2009) give 0.0703 in Fagerland, Lydersen and Laake 2013."""
    assert PairedCounts(0, 1, 7, 0).mcnemar_p == pytest.approx(0.0703, abs=5e-5)
    assert PairedCounts(0, 0, 0, 0).mcnemar_p == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_fair_coin(lost: int, won: int) -> None:
    flips, fewer = lost + won, min(lost, won)
    tail = sum(math.comb(flips, i) for i in range(fewer + 1)) / 2**flips
    assert PairedCounts(0, lost, won, 0).mcnemar_p == pytest.approx(
        min(1.0, 2 * tail), rel=1e-9
    )  # SciPy sums in floating point


@given(COUNT, COUNT, COUNT, COUNT)
@settings(max_examples=40)
def test_the_interval_holds_the_difference_and_mirrors(both: int, lost: int, won: int, neither: int) -> None:
    images = both + lost + won + neither
    if images == 0:
        return
    found = PairedCounts(both, lost, won, neither).points_interval
    rounding = 1e-9  # of a sum of some squares of percentages
    assert -100 - rounding <= found.low <= 100 * (won - lost) / images + rounding
    assert 100 * (won - lost) / images - rounding <= found.high <= 100 + rounding
    swapped = PairedCounts(both, won, lost, neither).points_interval
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    complement = PairedCounts(neither, won, lost, both).points_interval  # wrong instead of right turns the sign as well
    assert (complement.low, complement.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


@pytest.mark.parametrize("chances", [(0.6, 0.15, 0.05, 0.2), (0.3, 0.3, 0.1, 0.3)])
def test_the_interval_covers_the_truth(chances: tuple[float, float, float, float]) -> None:
    """Summed over every table of 14 images: near 95 %, as for any discrete interval not just at it."""
    images, truth = 14, 100 * (chances[2] - chances[1])
    covered = 0.0
    for both in range(images + 1):
        for lost in range(images + 1 - both):
            for won in range(images + 1 - both - lost):
                table = (both, lost, won, images - both - lost - won)
                found = PairedCounts(*table).points_interval
                if found.low <= truth <= found.high:
                    ways = math.factorial(images) // math.prod(map(math.factorial, table))
                    covered += ways * math.prod(p**n for p, n in zip(chances, table, strict=True))
    assert 0.935 <= covered <= 0.99


@given(st.integers(0, 100), st.integers(0, 20), st.integers(0, 20), st.integers(1, 100))
@settings(max_examples=40)
def test_more_images_of_the_same_kind_tell_more(both: int, lost: int, won: int, neither: int) -> None:
    few = PairedCounts(both, lost, won, neither).points_interval
    many = PairedCounts(4 * both, 4 * lost, 4 * won, 4 * neither).points_interval
    assert many.high - many.low < few.high - few.low
