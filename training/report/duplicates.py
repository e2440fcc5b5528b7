"""Pictures that are nearly the same, found by the network's own features.

The features are those of the last convolution, averaged to 3 x 3 places, minus their mean over all pictures. The last
hidden layer does not serve: training pulls the pictures of a class together there, and the nearest other picture of a
class (cosine 0.98 in the median of 1,000 Imagenette photos) is nearer than many a copy. Neighbours are then compared as
grey pictures of 32 x 32 pixels, because networks differ in how far they keep pictures apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_deploy.model.architecture import FEATURE_SIDE
from training.evaluate import OnFeatures

# Legend: N image, H height, W width, C channel, F feature, P pixel, Q neighbour

_PLACES, _GREY_SIDE = 3, 32
_NEIGHBOURS = 3
"""Neighbours to compare with each picture: enough for a group of copies."""
_SAME_PIXELS, _SAME_BOTH = 0.95, 0.85
"""Least correlation of two copies' grey pixels; or least mean of it and the cosine of their features.

docs/training.md has the shares of copies that these find.
"""
_ROWS = 1024  # of the table of similarities at a time: all of 20,000 pictures would need 1.6 GB


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures by their index, the lower one first, and how alike their pixels and features are (1: the same)."""

    first: int
    second: int
    pixels: float
    features: float


class Looks:
    """Collects what is compared of each picture, 7 KB, in the order in which batches arrive."""

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._grey: list[Tensor] = []

    def of(self, wanted_N: NDArray[np.bool_]) -> OnFeatures:
        """A callback for the batches of one list of images, which keeps those that are wanted."""
        wanted = torch.from_numpy(wanted_N)
        seen = 0

        def add(pixels_NHWC: Tensor, features_NF: Tensor) -> None:
            nonlocal seen
            keep = wanted[seen : seen + len(pixels_NHWC)]
            seen += len(keep)
            kept_NF = features_NF[keep]
            maps_NCHW = kept_NF.reshape(len(kept_NF), features_NF.shape[1] // FEATURE_SIDE**2, *[FEATURE_SIDE] * 2)
            self._features.append(torch.nn.functional.adaptive_avg_pool2d(maps_NCHW, _PLACES).flatten(1).half())
            grey_NHW = pixels_NHWC[keep].float().mean(3)
            self._grey.append(torch.nn.functional.adaptive_avg_pool2d(grey_NHW, _GREY_SIDE).flatten(1))

        return add

    def pairs(self) -> list[Pair]:
        """The pairs among all pictures so far, the most alike first."""
        features_NF = torch.cat(self._features).float()
        return find_pairs(features_NF - features_NF.mean(0), torch.cat(self._grey))


def find_pairs(features_NF: Tensor, grey_NP: Tensor) -> list[Pair]:
    """The pairs of nearest neighbours whose pixels agree as well, the most alike first."""
    count = min(_NEIGHBOURS, len(features_NF) - 1)
    if count < 1:
        return []
    unit_NF = torch.nn.functional.normalize(features_NF, dim=1)
    # A picture of one colour has no pattern to compare: it becomes 0, which resembles nothing.
    unit_NP = torch.nn.functional.normalize(grey_NP - grey_NP.mean(1, keepdim=True), dim=1)
    found: dict[tuple[int, int], Pair] = {}
    for start in range(0, len(unit_NF), _ROWS):
        cosine_NN = unit_NF[start : start + _ROWS] @ unit_NF.T
        rows = torch.arange(len(cosine_NN))
        cosine_NN[rows, rows + start] = -2.0  # not itself
        cosine_NQ, other_NQ = cosine_NN.topk(count, dim=1)
        pixels_NQ = torch.stack([(unit_NP[start : start + _ROWS] * unit_NP[q_N]).sum(1) for q_N in other_NQ.T], dim=1)
        alike_NQ = (pixels_NQ >= _SAME_PIXELS) | ((pixels_NQ + cosine_NQ) / 2 >= _SAME_BOTH)
        for row, q in alike_NQ.nonzero().tolist():
            first, second = sorted((start + row, int(other_NQ[row, q])))
            pair = Pair(first, second, float(pixels_NQ[row, q]), float(cosine_NQ[row, q]))
            found.setdefault((first, second), pair)
    return sorted(found.values(), key=lambda pair: (-pair.pixels - pair.features, pair.first, pair.second))
