"""The splits of a cross-validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alexnet_deploy.errors import InputError, UsageError
from training.data.listing import ImageList


def fold_splits(images: ImageList, folds: int, seed: int) -> Iterator[tuple[ImageList, ImageList]]:
    """``folds`` pairs of training and validation images; each image is in one validation split.

    Each class is spread evenly over the folds, in an order that the seed chooses. UsageError for fewer than two folds,
    InputError where a class has fewer images than there are folds: some fold could not validate it.
    """
    if folds < 2:
        raise UsageError(f"`folds` {folds}: must be 2 or more; 5 is usual")
    target_N = np.array(images.targets, np.int64)
    counts = np.bincount(target_N, minlength=len(images.class_ids))
    smallest = int(counts.argmin())
    if counts[smallest] < folds:
        found = int(counts[smallest])
        fix = f"use `folds` {found}, or add images" if found >= 2 else "add images, or remove the class"
        raise InputError(f"`folds` {folds}: class {images.class_ids[smallest]!r} has {found} images; {fix}")
    fold_N = np.zeros(len(target_N), np.int64)
    rng = np.random.default_rng(seed)
    turn = 0
    for number in range(len(counts)):
        members = rng.permutation(np.flatnonzero(target_N == number))
        # The first fold of a class is the one after the last class's last: the folds' sizes differ by one at most.
        fold_N[members] = (turn + np.arange(len(members))) % folds
        turn += len(members)
    for fold in range(folds):
        yield images.where(fold_N != fold), images.where(fold_N == fold)
