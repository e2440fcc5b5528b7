"""Ways to turn logits into probabilities, each fitted to labelled images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize, minimize_scalar

from alexnet_deploy.calibration import Calibration
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.probabilities import log_softmax, loss_nats

# Legend: N image, K class, P point of a map

LOWEST, HIGHEST = 0.02, 50.0
"""Range of temperatures, for logits of a spread of ``_SPREAD``. At these ends the logits carry no information."""
_SPREAD = 3.0
"""Standard deviation of an image's logits around their mean, in published networks, whose temperatures are 0.5..5."""
_PRIOR = 2.0
"""Images that each step of an isotonic map gets in addition, right as often as the temperature alone says.

Without them a step of right answers alone would be a probability of 1, and one mistake an infinite loss.
"""
_STRICT = 0.01
"""Share of the temperature's probability in each map, so that it rises everywhere and keeps the order of images."""
_GRID_P = 1 / (1 + np.exp(-np.linspace(-7, 9, 65)))
"""Where smooth maps are sampled: closer where a probability is near 0 or 1. The line between is within 0.1 %."""

Loss = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float64]]
"""Logits and true classes of images -> the negative log likelihood of each, in nats."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One method, fitted."""

    loss: Loss
    contract: ModelContract | None
    """With the fit in it; None where the ranking of classes would change, which no contract holds."""


Method = Callable[[NDArray[np.float32], NDArray[np.int64], ModelContract], Fitted]


def no_calibration(_: NDArray[np.float32], __: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """The bare softmax."""
    return _stored(bare)


def temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """One temperature (Guo et al. 2017, arXiv:1706.04599)."""
    return _stored(dataclasses.replace(bare, temperature=fit_temperature(logits_NK, target_N)))


def ensemble(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """A mixture of the temperature, of none, and of equal probabilities (Zhang et al. 2020, arXiv:2003.07329)."""
    rows = np.arange(len(target_N))
    raw_N = np.exp(log_softmax(logits_NK)[rows, target_N])

    def shares(log_t: float) -> tuple[float, NDArray[np.float64]]:
        parts = (np.exp(log_softmax(logits_NK, math.exp(log_t))[rows, target_N]), raw_N)
        likelihood_N3 = np.stack([*parts, np.full(len(rows), 1 / logits_NK.shape[1])], axis=1) + 1e-300
        share_3 = np.full(3, 1 / 3)
        for _ in range(60):  # expectation maximisation: each step raises the likelihood, which is concave
            part_N3 = likelihood_N3 * share_3
            share_3 = (part_N3 / part_N3.sum(axis=1, keepdims=True)).mean(axis=0)
        return -float(np.log(likelihood_N3 @ share_3).mean()), share_3

    found = minimize_scalar(
        lambda log_t: shares(log_t)[0], bounds=_log_range(logits_NK), method="bounded", options={"xatol": 1e-3}
    )
    _, raw, uniform = shares(found.x)[1].tolist()
    mixture = Calibration(mixture=(raw, min(uniform, 1 - raw)))
    return _stored(dataclasses.replace(bare, temperature=math.exp(found.x), calibration=mixture))


def isotonic(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """A temperature, then the rising steps that fit the top probability best, joined by lines.

    Zadrozny and Elkan 2002, Transforming classifier scores into accurate multiclass probability estimates.
    """
    by = dataclasses.replace(bare, temperature=fit_temperature(logits_NK, target_N))
    return _with_map(by, *_isotonic_map(*_tops(logits_NK, target_N, by)))


def beta(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """A temperature, then the beta calibration of the top probability (Kull et al. 2017, AISTATS): three numbers."""
    by = dataclasses.replace(bare, temperature=fit_temperature(logits_NK, target_N))
    return _with_map(by, _GRID_P, _beta_map(*_tops(logits_NK, target_N, by)))


def isotonic_and_beta(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], bare: ModelContract) -> Fitted:
    """A temperature, then the mean of the two maps of the top probability."""
    by = dataclasses.replace(bare, temperature=fit_temperature(logits_NK, target_N))
    tops = _tops(logits_NK, target_N, by)
    from_P, to_P = _isotonic_map(*tops)
    both_P = np.unique(np.r_[from_P, _GRID_P])
    smooth_P = np.interp(both_P, _GRID_P, _beta_map(*tops))
    return _with_map(by, both_P, (np.interp(both_P, from_P, to_P) + smooth_P) / 2)


def bias(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], _: ModelContract) -> Fitted:
    """One temperature, and a number per class that is added (Alexandari et al. 2020, arXiv:1901.06852)."""
    return _linear(logits_NK, target_N, shared=True)


def vector(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], _: ModelContract) -> Fitted:
    """Vector scaling: a factor and an added number per class (Guo et al. 2017)."""
    return _linear(logits_NK, target_N, shared=False)


METHODS: dict[str, Method] = {
    "none": no_calibration,
    "temperature": temperature,
    "ensemble of temperatures": ensemble,
    "isotonic on the top": isotonic,
    "beta on the top": beta,
    "isotonic and beta": isotonic_and_beta,
    "temperature with bias": bias,
    "vector scaling": vector,
}


def fit_temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64]) -> float:
    """Return the temperature at which the true classes are most likely, within ``temperature_range``.

    The mean negative log likelihood is convex in 1 / T. It has one minimum over log T, which a bounded search finds.
    """
    rows = np.arange(len(target_N))

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits_NK, math.exp(log_t))[rows, target_N].mean())

    found = minimize_scalar(loss, bounds=_log_range(logits_NK), method="bounded", options={"xatol": 1e-7})
    return math.exp(found.x)


def temperature_range(logits_NK: NDArray[np.float32]) -> tuple[float, float]:
    """``LOWEST`` and ``HIGHEST`` in the scale of these logits, which a model may choose at will."""
    scale = _spread(logits_NK) / _SPREAD
    return LOWEST * scale, HIGHEST * scale


def _spread(logits_NK: NDArray[np.float32]) -> float:
    return float(logits_NK.std(axis=1, dtype=np.float64).mean()) or _SPREAD  # equal logits have no scale


def _log_range(logits_NK: NDArray[np.float32]) -> tuple[float, float]:
    low, high = temperature_range(logits_NK)
    return math.log(low), math.log(high)


def _stored(contract: ModelContract) -> Fitted:
    return Fitted(lambda logits_NK, target_N: loss_nats(logits_NK, target_N, contract), contract)


def _tops(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], by: ModelContract
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The top probability of each image at the temperature of ``by``, rising, and whether that answer is right."""
    top_N = np.exp(log_softmax(logits_NK, by.temperature).max(axis=1))
    order_N = np.argsort(top_N, kind="stable")
    return top_N[order_N], (logits_NK.argmax(axis=1) == target_N)[order_N]


def _isotonic_map(
    top_N: NDArray[np.float64], right_N: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    starts = isotonic_regression(right_N.astype(np.float64)).blocks
    sizes = np.diff(starts)
    from_P = np.add.reduceat(top_N, starts[:-1]) / sizes
    to_P = (np.add.reduceat(right_N.astype(np.float64), starts[:-1]) + _PRIOR * from_P) / (sizes + _PRIOR)
    # Equal probabilities may lie in two steps; a line needs rising points.
    from_P, first = np.unique(from_P, return_index=True)
    return from_P, np.maximum.accumulate(to_P[first])


def _beta_map(top_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The map at each point of ``_GRID_P``: sigmoid(a log p - b log(1 - p) + c), a and b at least 0."""

    def features(p: NDArray[np.float64]) -> NDArray[np.float64]:
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)

    x_N3, sign_N = features(top_N), np.where(right_N, 1.0, -1.0)

    def loss(w_3: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z_N = sign_N * (x_N3 @ w_3)
        slope_N = -sign_N / (1 + np.exp(np.clip(z_N, -500, 500)))
        return float(np.logaddexp(0, -z_N).mean()), x_N3.T @ slope_N / len(z_N)

    found = minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, 50), (0, 50), (-50, 50)])
    to_P: NDArray[np.float64] = 1 / (1 + np.exp(-features(_GRID_P) @ found.x))
    return to_P


def _with_map(by: ModelContract, from_P: NDArray[np.float64], to_P: NDArray[np.float64]) -> Fitted:
    """``by`` with a map of the top probability; it reaches both ends and rises everywhere."""
    from_P, to_P = np.r_[0.0, from_P, 1.0], np.r_[to_P[0], to_P, to_P[-1]]
    from_P, first = np.unique(from_P, return_index=True)
    to_P = np.clip((1 - _STRICT) * to_P[first] + _STRICT * from_P, 1e-6, 1 - 1e-6)
    # Rounded for the file, which people read as well; this moves no probability by more than 0.0001 %.
    points = tuple((round(float(a), 6), round(float(b), 6)) for a, b in zip(from_P, to_P, strict=True))
    rising = [p for p, before in zip(points, ((-1.0, 0.0), *points), strict=False) if p[0] > before[0]]
    return _stored(dataclasses.replace(by, calibration=Calibration(top=tuple(rising))))


def _linear(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], *, shared: bool) -> Fitted:
    """softmax(a logits + b) with the most likely a (one number if ``shared``, else one per class) and b."""
    scale, classes = _spread(logits_NK) / _SPREAD, logits_NK.shape[1]
    x_NK = logits_NK.astype(np.float64) / scale  # the search takes steps near 1
    rows = np.arange(len(target_N))

    def split(w: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (np.repeat(w[:1], classes), w[1:]) if shared else (w[:classes], w[classes:])

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        a_K, b_K = split(w)
        log_NK = log_softmax(x_NK * a_K + b_K)
        residual_NK = np.exp(log_NK)
        residual_NK[rows, target_N] -= 1
        slope_a_K, slope_b_K = (residual_NK * x_NK).mean(axis=0), residual_NK.mean(axis=0)
        slope_a = slope_a_K.sum(keepdims=True) if shared else slope_a_K
        return -float(log_NK[rows, target_N].mean()), np.r_[slope_a, slope_b_K]

    start = np.full(1 if shared else classes, scale / fit_temperature(logits_NK, target_N))
    a_K, b_K = split(minimize(loss, np.r_[start, np.zeros(classes)], jac=True, method="L-BFGS-B").x)

    def losses(other_NK: NDArray[np.float32], other_N: NDArray[np.int64]) -> NDArray[np.float64]:
        return -log_softmax(other_NK.astype(np.float64) / scale * a_K + b_K)[np.arange(len(other_N)), other_N]

    return Fitted(losses, None)
