"""How far two engines look at the same place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_TOP = 0.1
"""Share of the places that count as those an engine looks at."""
_SAME, _SIMILAR = 0.9, 0.6
"""From here on the maps rank the places alike, or roughly. Chosen by looking at maps, not by a theory."""
_WEAK = 0.05
"""Below it the ranks are mostly those of small differences, which the rounding of int8 makes as well."""

Verdict = Literal["same", "similar", "different", "too weak"]
_MEANING: dict[Verdict, str] = {
    "same": "both rank the places alike: they look at the same parts of the photo",
    "similar": "both rank the places roughly alike, and differ in detail",
    "different": "they rank the places differently: do not assume that both answer for the same reason",
    "too weak": "no single place takes 5 points from either, so the ranks say little; try a larger patch",
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """``rank_correlation`` is Spearman's, over all places; None where one engine's map is the same everywhere.

    ``shared_top_percent`` is the share of the tenth of the places that matters most to the first engine which also
    belongs to the tenth of the second. By chance it is 10 %. ``largest_drop`` (0 to 1) is that of the engine whose
    answer depends less on any single place.
    """

    rank_correlation: float | None
    shared_top_percent: float
    largest_drop: float

    @property
    def verdict(self) -> Verdict:
        """Whether both look at the same places, in a word."""
        if self.rank_correlation is None or self.largest_drop < _WEAK:
            return "too weak"
        if self.rank_correlation >= _SAME:
            return "same"
        return "similar" if self.rank_correlation >= _SIMILAR else "different"

    def meaning(self) -> str:
        """The verdict as a sentence for people."""
        return _MEANING[self.verdict]


def agreement(first_YX: NDArray[np.float64], second_YX: NDArray[np.float64]) -> Agreement:
    """Compare the drops of two engines for the same places.

    No p value is given: neighbouring patches overlap, so the places are not independent.
    """
    first, second = first_YX.ravel(), second_YX.ravel()
    correlation: float | None = None
    if np.ptp(first) > 0 and np.ptp(second) > 0:
        correlation = float(stats.spearmanr(first, second).statistic)
    count = math.ceil(_TOP * first.size)
    tops = [set(np.argsort(-drops, kind="stable")[:count].tolist()) for drops in (first, second)]
    weakest = min(float(first.max()), float(second.max()))
    return Agreement(correlation, 100 * len(tops[0] & tops[1]) / count, weakest)
