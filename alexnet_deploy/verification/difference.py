"""How far the logits of one function are from those of another for the same pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Legend: N image, K class


@dataclass(frozen=True, slots=True)
class Difference:
    """Of logits, per image: the largest difference of a logit as a share of the range of the image's logits.

    Logits are centred first, since softmax ignores a constant that is added to a row.
    """

    share_N: NDArray[np.float64]
    changed: int
    """Number of images whose first class differs."""

    @property
    def largest(self) -> float:
        """The share of the worst image."""
        return float(self.share_N.max())

    @property
    def median(self) -> float:
        """The share of the median image."""
        return float(np.median(self.share_N))


def difference(
    found_NK: NDArray[np.floating], reference_NK: NDArray[np.floating], *, centre: bool = True
) -> Difference:
    """Compare two arrays of logits ``[N, K]``; ``centre`` False where a constant counts (sigmoid).

    A row that is not finite in both does not differ; one that is not finite in one of them differs without bound.
    """
    found_NK, reference_NK = found_NK.astype(np.float64), reference_NK.astype(np.float64)
    finite_N, expected_N = np.isfinite(found_NK).all(axis=1), np.isfinite(reference_NK).all(axis=1)
    both_N = finite_N & expected_N
    share_N = np.where(finite_N == expected_N, 0.0, np.inf)
    a_NK, b_NK = found_NK[both_N], reference_NK[both_N]
    if centre:
        a_NK, b_NK = a_NK - a_NK.mean(axis=1, keepdims=True), b_NK - b_NK.mean(axis=1, keepdims=True)
    if not a_NK.size:
        return Difference(share_N, 0)
    largest_N = np.abs(a_NK - b_NK).max(axis=1)
    range_N = np.ptp(b_NK, axis=1) if centre else np.abs(b_NK).max(axis=1)
    share_N[both_N] = np.divide(largest_N, range_N, out=np.where(largest_N > 0, np.inf, 0.0), where=range_N > 0)
    return Difference(share_N, int((a_NK.argmax(axis=1) != b_NK.argmax(axis=1)).sum()))
