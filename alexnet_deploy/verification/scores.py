"""Whether our logits say what the scores of the original say, be they logits, probabilities or percent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.adoption.outputs.class_output import WHOLES
from alexnet_deploy.contract import Activation, ModelContract
from alexnet_deploy.probabilities import activate
from alexnet_deploy.verification.difference import difference

# Legend: N image, K class

_SUM_OF_ROUNDED = 0.1
"""How far the sum of probabilities may be from 1 that are rounded to whole percent, per mille or steps."""


def against_scores(
    scores_NK: NDArray[np.float64],
    logits_NK: NDArray[np.float32],
    contract: ModelContract,
    given: Activation | None,
    limit: float,
) -> str | None:
    """Why our logits do not say what the ``scores_NK`` of the original say; None where they do."""
    classes = len(contract.labels)
    if scores_NK.shape[1] == 1 and classes == 2:
        return _against_one_score(scores_NK, logits_NK, limit)
    if scores_NK.shape[1] != classes:
        return (
            f"the original returns {scores_NK.shape[1]} scores per image, not {classes}; name the right `output_name`"
        )
    lowest, highest = float(scores_NK.min()), float(scores_NK.max())
    within = lowest >= -limit and highest <= 1 + limit
    whole = _whole_of(scores_NK, limit)
    if whole is not None:
        return _against_probabilities(scores_NK, whole, logits_NK, contract.activation, limit)
    if within and contract.activation == "softmax" and given is None and lowest < highest:
        return (
            "its outputs lie between 0 and 1 and do not sum to 1, so they are scores of classes that do not exclude "
            "each other; give `activation` sigmoid, or softmax if they are logits"
        )
    if contract.activation == "sigmoid" and within:
        return _against_probabilities(scores_NK, 1.0, logits_NK, "sigmoid", limit)
    reason = _against_logits(scores_NK, logits_NK, contract.activation, limit)
    if reason is not None and contract.activation == "sigmoid":
        # Numbers of these ranges may be logits as well, so the other meanings come second.
        reasons = [
            _against_probabilities(scores_NK, whole, logits_NK, "sigmoid", limit)
            for whole in WHOLES
            if lowest >= 0 and highest <= whole * (1 + limit)
        ]
        if highest <= limit:
            reasons.append(_against_probabilities(np.exp(scores_NK), 1.0, logits_NK, "sigmoid", limit))
        return None if None in reasons else reason
    return reason


def _against_one_score(scores_N1: NDArray[np.float64], logits_N2: NDArray[np.float32], limit: float) -> str | None:
    """One number is the logit or the probability, in any scale, of the second of two classes."""
    reason = _against_logits(np.concatenate([np.zeros_like(scores_N1), scores_N1], axis=1), logits_N2, "softmax", limit)
    for whole in WHOLES:
        if scores_N1.min() >= 0 and scores_N1.max() <= whole * (1 + limit):
            both_N2 = np.concatenate([whole - scores_N1, scores_N1], axis=1)
            found = _against_probabilities(both_N2, whole, logits_N2, "softmax", limit)
            if found is None or whole == 1.0:  # what lies within 0..1 is a probability
                return found
    return reason


def _against_logits(
    scores_NK: NDArray[np.float64], logits_NK: NDArray[np.float32], activation: Activation, limit: float
) -> str | None:
    differs = difference(logits_NK, scores_NK, centre=activation == "softmax")
    if differs.largest <= limit:
        return None
    return _wrong(f"logits differ by up to {differs.largest:.1%} of their range", differs.changed, len(scores_NK))


def _against_probabilities(
    scores_NK: NDArray[np.float64],
    whole: float,
    logits_NK: NDArray[np.float32],
    activation: Activation,
    limit: float,
) -> str | None:
    """The scores are probabilities times ``whole``; whole numbers are rounded, or cut, probabilities."""
    if whole > 1 and (scores_NK == np.rint(scores_NK)).all():
        limit += 1 / whole
    found_NK, expected_NK = activate(logits_NK, activation), scores_NK / whole
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


def _whole_of(scores_NK: NDArray[np.float64], limit: float) -> float | None:
    """What the scores of each image sum to, if they are probabilities in some scale; None otherwise."""
    sums_N = scores_NK.sum(axis=1)
    for whole in WHOLES:
        rounding = 0.0
        if whole > 1 and (scores_NK == np.rint(scores_NK)).all():
            rounding = min(scores_NK.shape[1] / whole, _SUM_OF_ROUNDED)
        if scores_NK.min() >= -limit * whole and np.abs(sums_N / whole - 1).max() <= limit + rounding:
            return whole
    return None
