"""The highest rate that a system sustains, by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable

PRECISION = 0.025
"""The search ends when the rate that passes and the one that fails are this close; a run hardly repeats better."""
MAX_RATES = 14
"""Rates that a search tries: six to come near, and eight for bisection, which needs five or six."""


def find_highest_rate(passes: Callable[[float], bool], *, start: float, floor: float) -> float | None:
    """The highest rate found to pass, within ``PRECISION`` of one that fails; None where none down to ``floor`` does.

    From ``start`` up by half or down by half until one passes and one fails, then bisection between them; ``MAX_RATES``
    calls at most.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(MAX_RATES):
        if passes(rate):
            low = rate
        else:
            high = rate
        if low is None:
            if rate <= floor:
                break
            rate = max(rate / 2, floor)
        elif high is None:
            rate *= 1.5
        elif high <= low * (1 + PRECISION):
            break
        else:
            rate = math.sqrt(low * high)
    return low
