"""The threshold below which an answer is unknown: for a bound on the risk, or for a coverage."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from alexnet_deploy.calibration import Score
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.confidence.record import RejectionFit
from alexnet_deploy.evaluation.confidence.scores import choose_score
from alexnet_deploy.evaluation.selective import threshold_for
from alexnet_deploy.probabilities import certainty

# Legend: N image, O outlier, K class

COVERAGE = 0.95
"""Where neither a risk nor a coverage is asked for: one image in twenty is marked."""
CONFIDENCE = 0.95


def check_targets(max_risk: float | None, coverage: float | None) -> None:
    """UsageError unless at most one of them is given, within its range."""
    if max_risk is not None and coverage is not None:
        raise UsageError("`max_risk` and `coverage` exclude each other; give one of them")
    if max_risk is not None and not 0 < max_risk < 1:  # NaN as well
        raise UsageError(f"`max_risk` {max_risk:g}: is not a share between 0 and 1; give one such as 5% or 0.05")
    if coverage is not None and not 0 < coverage <= 1:
        raise UsageError(f"`coverage` {coverage:g}: is not a share above 0 and up to 1; give one such as 90% or 0.9")


def fit_rejection(
    logits_NK: NDArray[np.float32],
    target_N: NDArray[np.int64],
    outlier_logits_OK: NDArray[np.float32] | None,
    contract: ModelContract,
    *,
    max_risk: float | None = None,
    coverage: float | None = None,
    source: str,
) -> RejectionFit | None:
    """Choose a score and its threshold; None for a ``coverage`` of 1, which answers everything.

    ``contract`` is calibrated. With ``max_risk`` a threshold whose risk on other images is at most that, with a
    confidence of 95 % (``risk_threshold``); else the one that ``coverage`` of the images reach
    (None: ``COVERAGE``). The risk is that of the images; outliers only choose the score.

    Raises InputError, which names ``source``, if the search finds no threshold that meets ``max_risk``.
    """
    check_targets(max_risk, coverage)
    if coverage == 1:
        return None
    right_N = logits_NK.argmax(axis=1) == target_N
    choice = choose_score(logits_NK, right_N, outlier_logits_OK, contract)
    score_N = certainty(logits_NK, contract, choice.score)
    if max_risk is None:
        threshold = threshold_for(score_N, COVERAGE if coverage is None else coverage)
    else:
        threshold = risk_threshold(score_N, right_N, max_risk, source=source)
    answered_N = score_N >= threshold
    wrong, answered = int((answered_N & ~right_N).sum()), int(answered_N.sum())
    passed = None
    if outlier_logits_OK is not None:
        passed = float((certainty(outlier_logits_OK, contract, choice.score) >= threshold).mean())
    return RejectionFit(
        score=choice.score,
        threshold=threshold,
        why=choice.why,
        scores=choice.rows,
        coverage=answered / len(score_N),
        risk=wrong / answered,
        max_risk=max_risk,
        risk_bound=upper_bound(wrong, answered, 1 - CONFIDENCE if max_risk is None else _delta(len(score_N))),
        outliers=None if outlier_logits_OK is None else len(outlier_logits_OK),
        outliers_answered=passed,
    )


def risk_threshold(score_N: NDArray[np.float64], right_N: NDArray[np.bool_], max_risk: float, *, source: str) -> float:
    """Search for the threshold of a large coverage whose risk is at most ``max_risk``, with a confidence of 95 %.

    Selection with guaranteed risk: Geifman and El-Yaniv 2017, Selective classification for deep neural networks
    (arXiv:1705.08500), algorithm 2. A binary search over the thresholds; the bound of each step is that of Clopper and
    Pearson at a confidence that holds for all steps and all scores together. The bound does not fall steadily with the
    coverage, so a larger coverage that the search does not try may meet ``max_risk`` too: trying every threshold
    would make the bound of each wider. Raises InputError if no step meets it.
    """
    rising_N = np.sort(score_N)
    wrong_N = (~right_N)[np.argsort(score_N, kind="stable")]
    images, delta = len(rising_N), _delta(len(rising_N))
    low, high = 0, images - 1
    found: float | None = None
    least = 1.0
    while low <= high:
        middle = (low + high) // 2
        start = int(np.searchsorted(rising_N, rising_N[middle], side="left"))  # equal scores pass together
        bound = upper_bound(int(wrong_N[start:].sum()), images - start, delta)
        least = min(least, bound)
        if bound <= max_risk:
            found, high = float(rising_N[middle]), start - 1
        else:
            low = int(np.searchsorted(rising_N, rising_N[middle], side="right"))
    if found is None:
        raise InputError(
            f"{source}: found no threshold that keeps the risk of an answer at or below {100 * max_risk:g} % with 95 % "
            f"confidence (the lowest bound of the search on these {images} images is {_rounded_up(100 * least)} %); "
            "raise `max_risk`, or give more images"
        )
    return found


def _rounded_up(percent: float) -> str:
    """With two decimals, so that the bound itself, given as `max_risk`, is met."""
    return f"{math.ceil(100 * percent) / 100:.2f}"


def upper_bound(wrong: int, answered: int, delta: float) -> float:
    """Clopper and Pearson's (1934) upper bound of a share of which ``wrong`` of ``answered`` were seen, 0..1."""
    return 1.0 if wrong >= answered else float(beta.ppf(1 - delta, wrong + 1, answered - wrong))


def _delta(images: int) -> float:
    """What each step of the search may be wrong by, so that all of them hold with ``CONFIDENCE``."""
    steps = max(math.ceil(math.log2(images)), 1) + 1
    return (1 - CONFIDENCE) / (steps * len(get_args(Score)))
