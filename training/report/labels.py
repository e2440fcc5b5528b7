"""Labels that the network doubts: confident learning.

Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021),
arXiv:1911.00068, section 3.1. The threshold of a class is the mean probability that its own images get for it. An
image counts as one of the class whose threshold it reaches (of several, the most likely one). Where that is another
than its label, and more likely, the label is in doubt: the paper's off-diagonal of the confident joint. The labels with
the least probability beside that class come first (the paper's normalised margin).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Legend: N image, K class


@dataclass(frozen=True, slots=True)
class Doubt:
    """The image ``index``, which looks like ``suggested``, with the probabilities of that class and of its label."""

    index: int
    suggested: int
    probability: float
    label_probability: float


def doubted_labels(probability_NK: NDArray[np.floating], target_N: NDArray[np.int64]) -> list[Doubt]:
    """The labels in doubt, the most doubtful first. All probabilities must be finite."""
    images_K = np.bincount(target_N, minlength=probability_NK.shape[1])
    own_N = np.take_along_axis(probability_NK, target_N[:, None], axis=1)[:, 0]
    # A class without an image here has no threshold, and nothing is suggested to be one of it.
    threshold_K = np.full(len(images_K), np.inf)
    seen_K = images_K > 0
    threshold_K[seen_K] = np.bincount(target_N, own_N, minlength=len(images_K))[seen_K] / images_K[seen_K]
    reached_NK = np.where(probability_NK >= threshold_K, probability_NK, -1.0)
    looks_like_N = reached_NK.argmax(axis=1)
    likely_N = np.take_along_axis(reached_NK, looks_like_N[:, None], axis=1)[:, 0]
    doubted = np.flatnonzero((likely_N >= 0) & (looks_like_N != target_N) & (likely_N > own_N))
    doubts = [Doubt(int(i), int(looks_like_N[i]), float(likely_N[i]), float(own_N[i])) for i in doubted]
    return sorted(doubts, key=lambda doubt: (doubt.label_probability - doubt.probability, doubt.index))
