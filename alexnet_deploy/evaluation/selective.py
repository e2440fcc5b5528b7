"""How well a score tells the answers that to trust: risk over coverage, and images that no class fits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Legend: N image, O outlier, C point of a curve

CURVE_POINTS = 101
"""Points of a curve that is kept: one per percent of coverage."""


def risks(score_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of wrong answers among the n images of the highest score, for n = 1..N, 0..1.

    Images of one score count as a mean over all orders among them.
    """
    order_N = np.argsort(-score_N, kind="stable")
    wrong_N, sorted_N = (~right_N[order_N]).astype(np.float64), score_N[order_N]
    starts = np.r_[0, np.flatnonzero(np.diff(sorted_N)) + 1]
    sizes = np.diff(np.r_[starts, len(sorted_N)])
    mean_N = np.repeat(np.add.reduceat(wrong_N, starts) / sizes, sizes)
    return np.cumsum(mean_N) / np.arange(1, len(mean_N) + 1)


def aurc(score_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> float:
    """Return the area under the risk-coverage curve, 0..1: the mean of ``risks``; lower is better.

    Geifman, Uziel and El-Yaniv 2019, Bias-reduced uncertainty estimation for deep neural classifiers
    (arXiv:1805.08206), section 3.
    """
    return float(risks(score_N, right_N).mean())


def risk_curve(score_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return (coverage, risk) in percent, at most ``CURVE_POINTS`` of them, coverage rising to 100."""
    risk_N = risks(score_N, right_N)
    images = len(risk_N)
    kept = np.unique(np.ceil(np.linspace(1 / CURVE_POINTS, 1, CURVE_POINTS) * images).astype(np.int64))
    return tuple((100 * float(n / images), 100 * float(risk_N[n - 1])) for n in kept)


def auroc(known_N: NDArray[np.float64], outlier_O: NDArray[np.float64]) -> float:
    """Return the probability that a known image has a higher score than an outlier, 0..1; equal scores count half."""
    sorted_O = np.sort(outlier_O)
    below = np.searchsorted(sorted_O, known_N, side="left") + np.searchsorted(sorted_O, known_N, side="right")
    return float(below.mean() / (2 * len(sorted_O)))


def fpr_at_95(known_N: NDArray[np.float64], outlier_O: NDArray[np.float64]) -> float:
    """Return the share of outliers that pass at the highest threshold that 95 % of the known images pass, 0..1."""
    return float((outlier_O >= threshold_for(known_N, 0.95)).mean())


def threshold_for(score_N: NDArray[np.float64], coverage: float) -> float:
    """Return the highest threshold that at least a share ``coverage`` (0..1) of ``score_N`` reaches."""
    kept = min(max(int(np.ceil(coverage * len(score_N) - 1e-9)), 1), len(score_N))
    return float(np.sort(score_N)[len(score_N) - kept])
