"""Intervals and tests for counts of right answers: of one engine, and of two engines on the same images.

All intervals are 95 % ones. Two engines that answer the same images are correlated, so their difference is known far
better than the intervals of the two suggest: only the images on which they part count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson_percent(right: int, images: int) -> Interval:
    """Wilson's score interval (1927) of ``right`` of ``images``, in percent; ``images`` is 1 or more."""
    found = binomtest(right, images).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


def mcnemar_p(lost: int, won: int) -> float:
    """McNemar's exact test (1947), two-sided: how likely so uneven a split of the flips is between equal engines.

    ``lost``: right in the first engine alone; ``won``: in the second alone. 1 where there is no flip.
    """
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def difference_points(both: int, lost: int, won: int, neither: int) -> Interval:
    """Accuracy of the second engine minus that of the first, in points: interval of paired proportions.

    The counts of images: right in both engines, in the first alone, in the second alone, in neither. Method 10 of
    Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
    Statistics in Medicine 17 (1998), 2635-2650: the score intervals of the two, put together with their correlation.
    It stays within -100..100 and holds its 95 % where differences are small and proportions near 1, as here, unlike
    the usual normal approximation.
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
    """Phi of the 2 x 2 table; a positive one is corrected for continuity, but not beyond 0."""
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if margins == 0:
        return 0.0
    excess: float = both * neither - lost * won
    if excess > 0:
        excess = max(excess - (both + lost + won + neither) / 2, 0.0)
    return excess / math.sqrt(margins)
