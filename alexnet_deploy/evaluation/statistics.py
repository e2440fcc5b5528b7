"""Intervals and tests for counts of right answers: of one engine, and of two engines on the same images.

All intervals are 95 % intervals. The answers of two engines to the same images are correlated, so their difference is
known far better than their two intervals suggest: only the images on which they differ count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Images that are right in both of two engines, in the first alone, in the second alone, and in neither."""

    both: int
    lost: int
    won: int
    neither: int

    @property
    def points(self) -> float:
        """Accuracy of the second engine minus that of the first, in percentage points."""
        return 100 * (self.won - self.lost) / (self.both + self.lost + self.won + self.neither)

    @property
    def points_interval(self) -> Interval:
        """See ``difference_points``."""
        return difference_points(self.both, self.lost, self.won, self.neither)


def count_pairs(right_a_N: NDArray[np.bool_], right_b_N: NDArray[np.bool_]) -> PairedCounts:
    """Count the images by which of two engines is right on them."""
    both, lost, won, neither = (
        int(np.count_nonzero(x))
        for x in (right_a_N & right_b_N, right_a_N & ~right_b_N, ~right_a_N & right_b_N, ~(right_a_N | right_b_N))
    )
    return PairedCounts(both, lost, won, neither)


def wilson_percent(right: int, images: int) -> Interval:
    """Return Wilson's score interval (1927) of ``right`` of ``images`` in percent; ``images`` is 1 or more."""
    found = binomtest(right, images).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


def mcnemar_p(lost: int, won: int) -> float:
    """Return the p-value of McNemar's exact test (1947), two-sided; 1 if no image differs.

    ``lost`` images are right in the first engine alone, ``won`` in the second alone. The p-value is the probability
    of a split at least as uneven between equal engines.
    """
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def difference_points(both: int, lost: int, won: int, neither: int) -> Interval:
    """Return the interval of the accuracy of the second engine minus that of the first, in percentage points.

    The arguments are the counts of ``PairedCounts``. Method 10 of Newcombe, Improved confidence intervals for the
    difference between binomial proportions based on paired data, Statistics in Medicine 17 (1998), 2635-2650: it
    combines the score intervals of the two with their correlation. It stays within -100..100 and keeps its 95 % where
    differences are small and proportions near 1, as here; the usual normal approximation does not.
    """
    images = both + lost + won + neither
    first, second = 100 * (both + lost) / images, 100 * (both + won) / images
    of_first, of_second = wilson_percent(both + lost, images), wilson_percent(both + won, images)
    phi = _correlation(both, lost, won, neither)

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))  # rounding can leave a 0 just below it

    difference = second - first
    return Interval(
        difference - reach(second - of_second.low, of_first.high - first),
        difference + reach(of_second.high - second, first - of_first.low),
    )


def _correlation(both: int, lost: int, won: int, neither: int) -> float:
    """Phi of the 2 x 2 table; if positive, corrected for continuity but not beyond 0."""
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if margins == 0:
        return 0.0
    excess: float = both * neither - lost * won
    if excess > 0:
        excess = max(excess - (both + lost + won + neither) / 2, 0.0)
    return excess / math.sqrt(margins)
