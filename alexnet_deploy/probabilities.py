"""From logits to probabilities and answers, in float64: the only definition for all rooms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.calibration import Score
from alexnet_deploy.contract import Activation, ModelContract

# Legend: N image, K class, P point of a map

_AHEAD = 2.0**-22
"""Share by which a map leaves the largest probability above the second: two steps of float32, to which both round."""


def softmax(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) of each row; all logits must be finite."""
    powers_NK = np.exp(_shifted(logits_NK, temperature))
    probabilities_NK: NDArray[np.float64] = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return probabilities_NK


def sigmoid(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-logits / temperature)) of each value; all logits must be finite."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    powers_NK = np.exp(-np.abs(scaled_NK))  # within 0..1, so nothing overflows
    return np.where(scaled_NK >= 0, 1.0, powers_NK) / (1.0 + powers_NK)


def activate(logits_NK: NDArray[np.floating], activation: Activation) -> NDArray[np.float64]:
    """Return what ``activation`` makes of the bare logits of each row; all logits must be finite."""
    return (sigmoid if activation == "sigmoid" else softmax)(logits_NK)


def probabilities(logits_NK: NDArray[np.floating], contract: ModelContract) -> NDArray[np.float64]:
    """Return the probabilities that ``contract`` gives to each row: all of its calibration; rows must be finite.

    Classes rank as their logits do, as far as float64 separates them. A map of the top probability leaves the first
    class the first in float32 as well.
    """
    if contract.activation == "sigmoid":
        return sigmoid(logits_NK, contract.temperature)
    if contract.calibration is None:
        return softmax(logits_NK, contract.temperature)
    calibrated_NK: NDArray[np.float64] = np.exp(log_probabilities(logits_NK, contract))
    return calibrated_NK


def log_probabilities(logits_NK: NDArray[np.floating], contract: ModelContract) -> NDArray[np.float64]:
    """Return log(``probabilities``) of each row of a softmax contract; all logits must be finite."""
    log_NK = log_softmax(logits_NK, contract.temperature)
    calibration = contract.calibration
    if calibration is None:
        return log_NK
    if calibration.mixture is not None:
        raw, uniform = calibration.mixture
        with np.errstate(divide="ignore"):  # log(0): a part without a share
            parts = (log_NK + np.log(max(0.0, 1 - raw - uniform)), log_softmax(logits_NK) + np.log(raw))
            log_uniform = np.log(uniform / log_NK.shape[1])
        mixed_NK: NDArray[np.float64] = np.logaddexp(np.logaddexp(*parts), log_uniform)
        return mixed_NK
    mapped_NK = _with_top(log_NK, logits_NK.argmax(axis=1), np.array(calibration.top))
    alone_N1 = (logits_NK == logits_NK.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True) == 1
    return np.where(alone_N1, mapped_NK, log_NK)  # classes of the same, largest logit stay equal


def _with_top(
    log_NK: NDArray[np.float64], first_N: NDArray[np.int64], points_P2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``Calibration.top`` of log-probabilities; ``first_N`` is the class with the largest of each row."""
    if log_NK.shape[1] == 1:
        return log_NK
    rows_N1 = first_N[:, None]
    top_N = np.exp(np.take_along_axis(log_NK, rows_N1, axis=1)[:, 0])
    others_NK = log_NK.copy()
    np.put_along_axis(others_NK, rows_N1, -np.inf, axis=1)
    others_NK = log_softmax(others_NK)  # the share of each of the others in what the first leaves
    least_N = np.exp(others_NK.max(axis=1)) * (1 + _AHEAD)  # of what the first leaves, for it to stay the first
    mapped_N = np.maximum(np.interp(top_N, *points_P2.T), least_N / (1 + least_N))
    result_NK = others_NK + np.log1p(-mapped_N)[:, None]
    np.put_along_axis(result_NK, rows_N1, np.log(mapped_N)[:, None], axis=1)
    return np.asarray(result_NK)


def certainty(logits_NK: NDArray[np.floating], contract: ModelContract, score: Score) -> NDArray[np.float64]:
    """Return how certain the answer of each row is, by ``score``; larger is more certain. All logits must be finite."""
    if score == "max-probability":
        top_N: NDArray[np.float64] = probabilities(logits_NK, contract).max(axis=1)
        return top_N
    largest_N: NDArray[np.float64] = logits_NK.max(axis=1).astype(np.float64)
    if score == "max-logit":
        return largest_N
    energy_N: NDArray[np.float64] = largest_N + np.log(np.exp(_shifted(logits_NK, 1.0)).sum(axis=1))
    return energy_N


def unknown(logits_NK: NDArray[np.floating], contract: ModelContract) -> NDArray[np.bool_] | None:
    """Return for each row whether the contract's rule calls its answer unknown; None without a rule.

    All logits must be finite.
    """
    if (rule := contract.rejection) is None:
        return None
    unknown_N: NDArray[np.bool_] = certainty(logits_NK, contract, rule.score) < rule.threshold
    return unknown_N


def log_softmax(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log(softmax(logits / temperature)) of each row; all logits must be finite."""
    log_NK = _shifted(logits_NK, temperature)
    log_NK -= np.log(np.exp(log_NK).sum(axis=1, keepdims=True))
    return log_NK


def log_sigmoid(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log(sigmoid(logits / temperature)) of each value; all logits must be finite."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    return np.minimum(scaled_NK, 0.0) - np.log1p(np.exp(-np.abs(scaled_NK)))


def kl_nats(p_NK: NDArray[np.floating], q_NK: NDArray[np.floating], activation: Activation) -> NDArray[np.float64]:
    """Return KL(P || Q) of each row of logits in nats, where P and Q are their probabilities; all must be finite.

    For "sigmoid" the mean over the classes, each of which is right or wrong by itself (a Bernoulli distribution).
    """
    if activation == "sigmoid":
        true_NK = sigmoid(p_NK) * (log_sigmoid(p_NK) - log_sigmoid(q_NK))
        false_NK = sigmoid(-p_NK) * (log_sigmoid(-p_NK) - log_sigmoid(-q_NK))
        kl_N: NDArray[np.float64] = (true_NK + false_NK).mean(axis=1)
    else:
        log_p_NK, log_q_NK = log_softmax(p_NK), log_softmax(q_NK)
        kl_N = (np.exp(log_p_NK) * (log_p_NK - log_q_NK)).sum(axis=1)
    return np.maximum(kl_N, 0.0)  # rounding can leave a 0 just below it


def loss_nats(
    logits_NK: NDArray[np.floating], target_N: NDArray[np.int64], contract: ModelContract
) -> NDArray[np.float64]:
    """Return how unlikely each row's true class was by ``probabilities``, in nats; all logits must be finite.

    For "softmax" the negative log likelihood. For "sigmoid" the binary cross-entropy, its mean over the classes, as
    torch's BCEWithLogitsLoss; classes other than the target count as absent ("assume negative" in Cole et al. 2021,
    Multi-label learning from single positive labels, arXiv:2106.09708), since a folder names one class per image.
    """
    rows_N1 = target_N[:, None]
    if contract.activation == "softmax":
        return -np.take_along_axis(log_probabilities(logits_NK, contract), rows_N1, axis=1)[:, 0]
    signed_NK = -logits_NK.astype(np.float64)
    np.put_along_axis(signed_NK, rows_N1, -np.take_along_axis(signed_NK, rows_N1, axis=1), axis=1)
    loss_N: NDArray[np.float64] = -log_sigmoid(signed_NK, contract.temperature).mean(axis=1)
    return loss_N


def finite_rows(logits_NK: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return for each row whether all its logits are finite."""
    finite_N: NDArray[np.bool_] = np.isfinite(logits_NK).all(axis=1)
    return finite_N


def predicted_classes(logits_NK: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the class number of the largest logit of each row; -1 where a logit is NaN or infinite."""
    return np.where(finite_rows(logits_NK), logits_NK.argmax(axis=1), -1).astype(np.int64)


def _shifted(logits_NK: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Return the scaled logits minus the largest of their row; then no exponential overflows."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    scaled_NK -= scaled_NK.max(axis=1, keepdims=True)
    return scaled_NK
