"""From logits to probabilities and answers, in float64: the only definition for all rooms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation

# Legend: N image, K class


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


def activate(logits_NK: NDArray[np.floating], activation: Activation, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities that a contract's ``activation`` gives to each row; all logits must be finite."""
    return (sigmoid if activation == "sigmoid" else softmax)(logits_NK, temperature)


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
    logits_NK: NDArray[np.floating], target_N: NDArray[np.int64], activation: Activation, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return how unlikely each row's true class was, in nats; all logits must be finite.

    For "softmax" the negative log likelihood. For "sigmoid" the binary cross-entropy, its mean over the classes, as
    torch's BCEWithLogitsLoss; classes other than the target count as absent ("assume negative" in Cole et al. 2021,
    Multi-label learning from single positive labels, arXiv:2106.09708), since a folder names one class per image.
    """
    rows_N1 = target_N[:, None]
    if activation == "softmax":
        return -np.take_along_axis(log_softmax(logits_NK, temperature), rows_N1, axis=1)[:, 0]
    signed_NK = -logits_NK.astype(np.float64)
    np.put_along_axis(signed_NK, rows_N1, -np.take_along_axis(signed_NK, rows_N1, axis=1), axis=1)
    loss_N: NDArray[np.float64] = -log_sigmoid(signed_NK, temperature).mean(axis=1)
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
