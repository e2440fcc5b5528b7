"""What a fit on labelled images adds to a contract: a map of its probabilities, and the rule for "unknown"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Score = Literal["max-probability", "max-logit", "energy"]
"""How certain an answer is, from its logits alone, so that every runtime can do it; larger is more certain.

The calibrated probability of the answer (Hendrycks and Gimpel 2017, arXiv:1610.02136), its logit (Hendrycks et al.
2022, arXiv:1911.11132), or log(sum(exp(logits))), the negative energy of Liu et al. 2020 (arXiv:2010.03759).
"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What happens to the probabilities p = softmax(logits / temperature); the ranking of the classes stays.

    One of two forms:

    ``mixture`` (v, u): p becomes (1 - v - u) p + v softmax(logits) + u / K, ensemble temperature scaling (Zhang et al.
    2020, Mix-n-Match, arXiv:2003.07329).

    ``top``: points (from, to) of a rising line. The largest p is mapped by it, and the others are multiplied by one
    factor so that the sum stays 1. Before the first point and after the last the line is constant; the
    largest p stays above the second, and equal ones, which the logits do not tell apart, stay as they are.
    """

    mixture: tuple[float, float] | None = None
    top: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if (self.mixture is None) == (not self.top):
            raise ValueError("a calibration is either a mixture or a map of the top probability")
        if self.mixture is not None and not (min(self.mixture) >= 0 and sum(self.mixture) <= 1):  # NaN as well
            raise ValueError(f"shares {self.mixture} of a mixture are not within 0..1")
        if not all(0 <= from_ <= 1 and 0 < to < 1 for from_, to in self.top):
            raise ValueError("a point of the map of the top probability is not within 0..1")
        pairs = zip(self.top, self.top[1:], strict=False)
        if not all(a[0] < b[0] and a[1] <= b[1] for a, b in pairs):
            raise ValueError("the map of the top probability does not rise")

    def describe(self) -> str:
        """Name for people."""
        if self.mixture is not None:
            return "ensemble temperature scaling"
        return f"a map of the top probability with {len(self.top)} points"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer whose ``score`` is below ``threshold`` is marked as unknown."""

    score: Score
    threshold: float

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise ValueError(f"unknown score {self.score!r}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold {self.threshold} is not finite")

    def describe(self) -> str:
        """The rule for people."""
        return f"unknown where {self.score.replace('-', ' ')} is below {self.threshold:.4g}"
