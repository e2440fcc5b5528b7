"""Intervals and tests for counts of right answers: of one engine, and of two engines on the same images.

All intervals are 95 % intervals. The answers of two engines to the same images are correlated, so their difference is
known far better than their two intervals suggest: only the images with different answers count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from alexnet_deploy.evaluation.results import Interval


def wilson_percent(right: int, images: int) -> Interval:
    """Return Wilson's score interval (1927) of ``right`` of ``images`` in percent; ``images`` is 1 or more."""
    found = binomtest(right, images).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Images that are right in both of two engines, in the first alone, in the second alone, and in neither."""

    both: int
    lost: int
    won: int
    neither: int

    @classmethod
    def of(cls, right_a_N: NDArray[np.bool_], right_b_N: NDArray[np.bool_]) -> PairedCounts:
        """Count the images by which of two engines is right on them."""
        pairs = (right_a_N & right_b_N, right_a_N & ~right_b_N, ~right_a_N & right_b_N, ~(right_a_N | right_b_N))
        return cls(*(int(np.count_nonzero(each)) for each in pairs))

    @property
    def images(self) -> int:
        """All of them."""
        return self.both + self.lost + self.won + self.neither

    @property
    def points(self) -> float:
        """Accuracy of the second engine minus that of the first, in percentage points."""
        return 100 * (self.won - self.lost) / self.images

    @property
    def mcnemar_p(self) -> float:
        """The p-value of McNemar's exact test (1947), two-sided; 1 if no image differs.

        It is the probability of a split of ``lost`` and ``won`` at least as uneven between equal engines.
        """
        return float(binomtest(self.lost, self.lost + self.won).pvalue) if self.lost + self.won else 1.0

    @property
    def points_interval(self) -> Interval:
        """The interval of ``points``.

        Method 10 of Newcombe, Improved confidence intervals for the difference between binomial proportions based on
        paired data, Statistics in Medicine 17 (1998), 2635-2650: it combines the score intervals of the two with their
        correlation. It stays within -100..100 and keeps its 95 % where differences are small and proportions near 1,
        as here; the usual normal approximation does not.
        """
        images, right_a, right_b = self.images, self.both + self.lost, self.both + self.won
        first, second = 100 * right_a / images, 100 * right_b / images
        of_first, of_second = wilson_percent(right_a, images), wilson_percent(right_b, images)
        phi = self._correlation()

        def reach(x: float, y: float) -> float:
            return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))  # rounding can leave a 0 just below it

        difference = second - first
        return Interval(
            difference - reach(second - of_second.low, of_first.high - first),
            difference + reach(of_second.high - second, first - of_first.low),
        )

    def _correlation(self) -> float:
        """Phi of the 2 x 2 table; if positive, corrected for continuity but not beyond 0."""
        both, lost, won, neither = self.both, self.lost, self.won, self.neither
        margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
        if margins == 0:
            return 0.0
        excess: float = both * neither - lost * won
        if excess > 0:
            excess = max(excess - self.images / 2, 0.0)
        return excess / math.sqrt(margins)
