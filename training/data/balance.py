"""Classes of unequal size: an order that shows each class equally often, and weights for the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def balanced_order(targets: Sequence[int], length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``length`` views (``loader.Item``) in random order, as many of each class to within one.

    A class goes through all its images before it repeats one. Classes without an image get no share.
    """
    target_N = np.asarray(targets)
    present = rng.permutation(np.unique(target_N))
    shares = [length // len(present) + (i < length % len(present)) for i in range(len(present))]
    views: list[NDArray[np.int64]] = []
    for number, share in zip(present, shares, strict=True):
        members = np.flatnonzero(target_N == number)
        passes = -(-share // len(members))
        order = [rng.permutation(members) + i * len(target_N) for i in range(max(passes, 1))]
        views.append(np.concatenate(order)[:share])
    return rng.permutation(np.concatenate(views)).astype(np.int64)


def class_weights(targets: Sequence[int], classes: int) -> NDArray[np.float32]:
    """Weights ``[classes]`` of the loss, inverse to the sizes of the classes; their mean over the images is 1.

    A class without an image has weight 0: no target names it.
    """
    counts = np.bincount(targets, minlength=classes)
    weights = np.zeros(classes, np.float32)
    present = counts > 0
    weights[present] = len(targets) / (present.sum() * counts[present])
    return weights
