"""How often answers are right, by the probability that the engine gave them: bins, and their mean gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

# Legend: N image, B bin

BINS = 15
"""As in Guo et al. 2017 (arXiv:1706.04599), so that numbers and diagrams compare with published ones."""

NonNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The answers with a confidence in (``low``, ``high``], both within 0..1; no percentages without images."""

    low: NonNegative
    high: NonNegative
    images: Annotated[int, Meta(ge=0)]
    accuracy_percent: NonNegative | None
    confidence_percent: NonNegative | None
    """Mean confidence of the bin's answers."""

    def __post_init__(self) -> None:
        if any((self.images == 0) != (share is None) for share in (self.accuracy_percent, self.confidence_percent)):
            raise ValueError("a bin has percentages without images, or images without percentages")


def reliability_bins(
    confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Sort answers into ``bins`` bins of equal width.

    ``confidence_N`` is the probability (0..1) of each first answer, ``right_N`` whether it is the true class.
    """
    edges = np.arange(bins + 1) / bins
    bin_N = _bin_of(confidence_N, bins)
    images_B = np.bincount(bin_N, minlength=bins)
    right_B = np.bincount(bin_N, right_N, minlength=bins)
    confidence_B = np.bincount(bin_N, confidence_N, minlength=bins)
    return tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            images=int(n),
            accuracy_percent=100 * float(right_B[i] / n) if n else None,
            confidence_percent=100 * float(confidence_B[i] / n) if n else None,
        )
        for i, n in enumerate(images_B)
    )


def calibration_error(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error, 0..1: the mean of |accuracy - confidence| over the bins, by images."""
    gap_B = np.bincount(_bin_of(confidence_N, bins), right_N - confidence_N, minlength=bins)
    return float(np.abs(gap_B).sum()) / len(confidence_N)


def _bin_of(confidence_N: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    return np.digitize(confidence_N, np.arange(1, bins) / bins, right=True)
