"""The threshold below which an answer is unknown: for a bound on the risk, or for a coverage."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
STARTS = (0.05, 0.25, 0.6)
"""Coverages where the search for a bounded risk starts; no rule answers less than the first of them. More of them make
every bound wider. Chosen by simulation (docs/confidence.md)."""
DELTA = (1 - CONFIDENCE) / (len(STARTS) * len(get_args(Score)))
"""What the bounds of one start and one score may be wrong by, so that all of them hold with ``CONFIDENCE``."""


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
        risk_bound=float(upper_bounds(wrong, answered, 1 - CONFIDENCE if max_risk is None else DELTA)),
        outliers=None if outlier_logits_OK is None else len(outlier_logits_OK),
        outliers_answered=passed,
    )


def risk_threshold(score_N: NDArray[np.float64], right_N: NDArray[np.bool_], max_risk: float, *, source: str) -> float:
    """Return the threshold of the largest coverage found whose risk is at most ``max_risk``, with 95 % confidence.

    Fixed sequence testing: Angelopoulos, Bates, Candes, Jordan and Lei 2021, Learn then test (arXiv:2110.01052),
    algorithm 1. From each of ``STARTS`` the threshold falls from score to score for as long as Clopper and Pearson's
    bound meets ``max_risk``. Each sequence ends at its first failure, so only the starts and the scores that were
    compared share the confidence, and not the thousands of thresholds. Raises InputError if no start meets it.
    """
    order_N = np.argsort(-score_N, kind="stable")
    falling_N, wrong_N = score_N[order_N], np.cumsum(~right_N[order_N])
    ends = np.r_[np.flatnonzero(falling_N[1:] != falling_N[:-1]), len(falling_N) - 1]  # equal scores pass together
    bounds = upper_bounds(wrong_N[ends], ends + 1, DELTA)
    starts = np.searchsorted(ends + 1, np.ceil(np.array(STARTS) * len(falling_N)))
    # Whoever reaches a later start without a failure goes on from it, so the last start that passes goes furthest.
    passed = starts[bounds[starts] <= max_risk]
    if not len(passed):
        raise InputError(
            f"{source}: found no threshold that keeps the risk of an answer at or below {100 * max_risk:g} % with 95 % "
            f"confidence (the lowest bound where the search on these {len(falling_N)} images starts is "
            f"{_rounded_up(100 * bounds[starts].min())} %); raise `max_risk`, or give more images"
        )
    failed = np.flatnonzero(bounds[passed[-1] :] > max_risk)
    last = passed[-1] + failed[0] - 1 if len(failed) else -1
    return float(falling_N[ends[last]])


def _rounded_up(percent: float) -> str:
    """With two decimals, so that the bound itself, given as `max_risk`, is met."""
    return f"{math.ceil(100 * percent) / 100:.2f}"


def upper_bounds(wrong: ArrayLike, answered: ArrayLike, delta: float) -> NDArray[np.float64]:
    """Clopper and Pearson's (1934) upper bounds of shares of which ``wrong`` of ``answered`` were seen, 0..1."""
    wrong, answered = np.asarray(wrong), np.asarray(answered)
    return np.where(wrong >= answered, 1.0, beta.ppf(1 - delta, wrong + 1, np.maximum(answered - wrong, 1)))
