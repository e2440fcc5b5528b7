"""Pictures that are nearly the same: another size, another quality, brighter or cropped.

The features are maps of a convolution, averaged to 3 x 3 places, minus their mean over all pictures. The last hidden
layer does not serve: training pulls the pictures of a class together there, and the nearest other picture of a class
(cosine 0.98 in the median of 1,000 Imagenette photos) is nearer than many a copy. Neighbours are then compared as grey
pictures of 32 x 32 pixels, because networks differ in how far they keep pictures apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Legend: N image, H height, W width, C channel, F feature, P pixel, Q neighbour

_PLACES, _GREY_SIDE = 3, 32
_NEIGHBOURS = 3
"""Neighbours to compare with each picture: enough for a group of copies."""
SAME_PIXELS, SAME_BOTH = 0.95, 0.85
"""Least correlation of two copies' grey pixels; or least mean of it and the cosine of their features.

docs/features.md has the copies that these find and the pairs that they take for copies.
"""
_TABLE_BYTES = 64 << 20
"""Of the table of similarities at a time: all of 20,000 pictures would need 1.6 GB."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures by their index, the lower one first, and how alike their pixels and features are (1: the same)."""

    first: int
    second: int
    pixels: float
    features: float

    @property
    def alike(self) -> float:
        """The mean of both."""
        return (self.pixels + self.features) / 2


class Looks:
    """Collects what is compared of each picture, 7 KB for AlexNet, in the order in which batches arrive."""

    def __init__(self) -> None:
        self._features: list[NDArray[np.float16]] = []
        self._scales: list[NDArray[np.float32]] = []
        self._grey: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32], pixels_NHWC: NDArray[np.uint8]) -> None:
        """Maps ``[N, C, H, W]``, or features without places ``[N, F]``, and the pixels of the same pictures."""
        if not len(pixels_NHWC):
            return
        if features.ndim == 4:
            maps_MHW = features.reshape(-1, *features.shape[2:])
            features = _averaged(maps_MHW, min(_PLACES, *features.shape[2:]))
        count, height, width, channels = pixels_NHWC.shape
        rows_NF = features.reshape(count, -1)
        # float16 holds 6e-8 to 65504, activations are of any size: each row is divided by its largest number.
        scales_N1 = np.abs(rows_NF).max(1, keepdims=True)
        shares_NF = np.divide(rows_NF, scales_N1, out=np.zeros_like(rows_NF), where=scales_N1 > 0)
        self._features.append(shares_NF.astype(np.float16))
        self._scales.append(scales_N1)
        rows_NHW = pixels_NHWC.reshape(count, height, -1).astype(np.float32)
        grey_NSS = _averaged(rows_NHW, min(_GREY_SIDE, height, width), channels=channels)
        self._grey.append(grey_NSS.reshape(count, -1))

    def pairs(self, threshold: float = SAME_BOTH) -> list[Pair]:
        """The pairs among all pictures so far, as ``find_pairs``."""
        if not self._features:
            return []
        scales_N1 = np.concatenate(self._scales)
        # Against the largest of all, because the lengths of rows are squared; their angles stay as they are.
        features_NF = np.concatenate(self._features) * (scales_N1 / (scales_N1.max() or 1))
        return find_pairs(features_NF - features_NF.mean(0), np.concatenate(self._grey), threshold)


def find_pairs(
    features_NF: NDArray[np.float32], grey_NP: NDArray[np.float32], threshold: float = SAME_BOTH
) -> list[Pair]:
    """The pairs of nearest neighbours whose pixels agree as well, the most alike first.

    Their likeness (``Pair.alike``) is at least ``threshold``, or their pixels agree by ``SAME_PIXELS`` where that is
    above it.
    """
    count = min(_NEIGHBOURS, len(features_NF) - 1)
    if count < 1:
        return []
    unit_NF = _unit(features_NF)
    # A picture of one colour has no pattern to compare: it becomes 0, which resembles nothing.
    unit_NP = _unit(grey_NP - grey_NP.mean(1, keepdims=True))
    same_pixels = max(SAME_PIXELS, threshold)
    found: dict[tuple[int, int], Pair] = {}
    at_once = max(1, _TABLE_BYTES // (4 * len(unit_NF)))
    for start in range(0, len(unit_NF), at_once):
        cosine_NN = unit_NF[start : start + at_once] @ unit_NF.T
        rows = np.arange(len(cosine_NN))
        cosine_NN[rows, rows + start] = -2.0  # not itself
        other_NQ = np.argpartition(-cosine_NN, count - 1, axis=1)[:, :count]
        cosine_NQ = np.take_along_axis(cosine_NN, other_NQ, axis=1)
        pixels_NQ = np.einsum("np,nqp->nq", unit_NP[start : start + at_once], unit_NP[other_NQ])
        alike_NQ = (pixels_NQ >= same_pixels) | ((pixels_NQ + cosine_NQ) / 2 >= threshold)
        for row, q in np.argwhere(alike_NQ).tolist():
            first, second = sorted((start + row, int(other_NQ[row, q])))
            pair = Pair(first, second, float(pixels_NQ[row, q]), float(cosine_NQ[row, q]))
            found.setdefault((first, second), pair)
    return sorted(found.values(), key=lambda pair: (-pair.alike, pair.first, pair.second))


def _unit(rows_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; those that are 0 stay 0."""
    lengths_N1 = np.linalg.norm(rows_NF, axis=1, keepdims=True)
    unit_NF: NDArray[np.float32] = np.divide(rows_NF, lengths_N1, out=np.zeros_like(rows_NF), where=lengths_N1 > 1e-12)
    return unit_NF


def _averaged(maps_MHW: NDArray[np.float32], side: int, *, channels: int = 1) -> NDArray[np.float32]:
    """Averages over ``side`` x ``side`` places, ``[M, side, side]``; each place of a row has ``channels`` numbers."""
    count, height, row = maps_MHW.shape
    down_SH, across_SW = _places(height, side), _places(row // channels, side)
    weights_WS = np.repeat(across_SW, channels, axis=1).T / np.float32(channels)
    # Two large products instead of one small one per map.
    across_MSH = (maps_MHW.reshape(-1, row) @ weights_WS).reshape(count, height, side).transpose(0, 2, 1)
    averaged_MSS: NDArray[np.float32] = (across_MSH.reshape(-1, height) @ down_SH.T).reshape(count, side, side)
    return averaged_MSS.transpose(0, 2, 1)


def _places(length: int, side: int) -> NDArray[np.float32]:
    """The weights of ``length`` numbers in each of ``side`` averages; neighbours share a number that is between."""
    weights_SL = np.zeros((side, length), np.float32)
    for place in range(side):
        first, last = place * length // side, -(-(place + 1) * length // side)
        weights_SL[place, first:last] = 1 / (last - first)
    return weights_SL
