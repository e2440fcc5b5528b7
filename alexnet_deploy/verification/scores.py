"""Whether our logits say what the scores of the original say, be they logits, probabilities or percent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation, ModelContract
from alexnet_deploy.verification.difference import difference

# Legend: N image, K class


def against_scores(
    scores_NK: NDArray[np.float64],
    logits_NK: NDArray[np.float32],
    contract: ModelContract,
    given: Activation | None,
    limit: float,
) -> str | None:
    """Why our logits do not say what the ``scores_NK`` of the original say; None where they do."""
    classes = len(contract.labels)
    if scores_NK.shape[1] == 1 and classes == 2:  # one probability or logit of the second of two classes
        within = scores_NK.min() >= 0 and scores_NK.max() <= 1
        scores_NK = np.concatenate([1 - scores_NK if within else np.zeros_like(scores_NK), scores_NK], axis=1)
    if scores_NK.shape[1] != classes:
        return (
            f"the original returns {scores_NK.shape[1]} scores per image, not {classes}; name the right `output_name`"
        )
    lowest, highest = float(scores_NK.min()), float(scores_NK.max())
    scale = _probability_scale(scores_NK, limit)
    within = lowest >= -limit and highest <= 1 + limit
    if scale is None and within and contract.activation == "softmax" and given is None and lowest < highest:
        return (
            "its outputs lie between 0 and 1 and do not sum to 1, so they are scores of classes that do not exclude "
            "each other; give `activation` sigmoid, or softmax if they are logits"
        )
    if scale is not None:
        return _against_probabilities(scores_NK / scale, logits_NK, contract.activation, limit)
    if contract.activation == "sigmoid" and within:
        return _against_probabilities(scores_NK, logits_NK, "sigmoid", limit)
    reason = _against_logits(scores_NK, logits_NK, contract.activation, limit)
    if reason is not None and contract.activation == "sigmoid":
        # Numbers of these ranges may be logits as well, so the other meanings come second.
        if lowest >= 0 and highest <= 100 * (1 + limit):
            return _against_probabilities(scores_NK / 100, logits_NK, "sigmoid", limit)
        if highest <= limit:
            return _against_probabilities(np.exp(scores_NK), logits_NK, "sigmoid", limit)
    return reason


def _against_logits(
    scores_NK: NDArray[np.float64], logits_NK: NDArray[np.float32], activation: Activation, limit: float
) -> str | None:
    differs = difference(logits_NK, scores_NK, centre=activation == "softmax")
    if differs.largest <= limit:
        return None
    return _wrong(f"logits differ by up to {differs.largest:.1%} of their range", differs.changed, len(scores_NK))


def _against_probabilities(
    expected_NK: NDArray[np.float64], logits_NK: NDArray[np.float32], activation: Activation, limit: float
) -> str | None:
    found_NK = probabilities(logits_NK, activation)
    largest = float(np.abs(found_NK - expected_NK).max())
    if largest <= limit:
        return None
    changed = int((found_NK.argmax(axis=1) != expected_NK.argmax(axis=1)).sum())
    return _wrong(f"probabilities differ by up to {100 * largest:.1f} points", changed, len(expected_NK))


def _wrong(what: str, changed: int, images: int) -> str:
    return (
        f"on {images} photos its imported form does not answer as the original: {what}, {changed} first "
        "classes are others; check the import options, or export the model again"
    )


def _probability_scale(scores_NK: NDArray[np.float64], limit: float) -> float | None:
    """1 or 100 where each row holds probabilities that sum to it; None otherwise."""
    sums_N = scores_NK.sum(axis=1)
    for scale in (1.0, 100.0):
        if scores_NK.min() >= -limit * scale and np.abs(sums_N - scale).max() <= limit * scale:
            return scale
    return None


def probabilities(logits_NK: NDArray[np.float32], activation: Activation) -> NDArray[np.float64]:
    """Probabilities ``[N, K]`` at temperature 1.

    As ``inference.probabilities``, which is above this room, and written anew to be independent of it.
    """
    logits_NK = logits_NK.astype(np.float64)
    if activation == "sigmoid":
        return 0.5 * (1 + np.tanh(logits_NK / 2))
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities_NK: NDArray[np.float64] = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return probabilities_NK
