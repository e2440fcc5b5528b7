"""From logits to probabilities and answers, in float64: the only definition for all rooms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Legend: N image, K class


def softmax(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) of each row; all logits must be finite."""
    powers_NK = np.exp(_shifted(logits_NK, temperature))
    probabilities_NK: NDArray[np.float64] = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return probabilities_NK


def log_softmax(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log(softmax(logits / temperature)) of each row; all logits must be finite."""
    log_NK = _shifted(logits_NK, temperature)
    log_NK -= np.log(np.exp(log_NK).sum(axis=1, keepdims=True))
    return log_NK


def kl_nats(p_NK: NDArray[np.floating], q_NK: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return KL(softmax(p) || softmax(q)) of each row of logits in nats; all logits must be finite."""
    log_p_NK, log_q_NK = log_softmax(p_NK), log_softmax(q_NK)
    kl_N: NDArray[np.float64] = (np.exp(log_p_NK) * (log_p_NK - log_q_NK)).sum(axis=1)
    return np.maximum(kl_N, 0.0)  # rounding can leave a 0 just below it


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
