"""The reliability diagram as numbers: how often answers are right, by how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Legend: N image, B bin

BINS = 15
"""Of Guo et al. 2017 (arXiv:1706.04599), so that diagrams compare with published ones."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers with a confidence above ``low`` and up to ``high``, both within 0..1; no image, no percentages."""

    low: float
    high: float
    images: int
    accuracy_percent: float | None
    confidence_percent: float | None
    """Mean confidence of its answers."""


def reliability(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int = BINS) -> tuple[Bin, ...]:
    """Sort answers into ``bins`` bins of equal width.

    ``confidence_N`` is the probability (0..1) of each first answer, ``right_N`` whether it is the true class. The
    expected calibration error is the mean of |accuracy - confidence| over the bins, by images.
    """
    edges = np.arange(bins + 1) / bins
    bin_N = np.digitize(confidence_N, edges[1:-1], right=True)
    images_B = np.bincount(bin_N, minlength=bins)
    right_B = np.bincount(bin_N, right_N, minlength=bins)
    confidence_B = np.bincount(bin_N, confidence_N, minlength=bins)
    return tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            images=int(n),
            accuracy_percent=100 * float(right_B[i] / n) if n else None,
            confidence_percent=100 * float(confidence_B[i] / n) if n else None,
        )
        for i, n in enumerate(images_B)
    )
