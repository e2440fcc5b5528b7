"""Pictures of a run that are nearly the same, by the features of the network that it trained."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_deploy.features.near_copies import Looks, Pair
from alexnet_deploy.model.architecture import FEATURE_SIDE
from training.results.evaluate import OnFeatures

# Legend: N image, H height, W width, C channel, F feature


class RunLooks:
    """Collects what is compared of each picture, in the order in which batches arrive."""

    def __init__(self) -> None:
        self._looks = Looks()

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
            self._looks.add(maps_NCHW.float().numpy(), pixels_NHWC[keep].numpy())

        return add

    def pairs(self) -> list[Pair]:
        """The pairs among all pictures so far, the most alike first."""
        return self._looks.pairs()
