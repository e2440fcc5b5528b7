"""The splits of a cross-validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.identity.copies import copies
from training.data.lists.listing import ImageList
from training.epochs import counted


def fold_splits(images: ImageList, folds: int, seed: int) -> Iterator[tuple[ImageList, ImageList]]:
    """``folds`` pairs of training and validation images; each image is in one validation split.

    Each class is spread evenly over the folds, in an order that the seed chooses. Copies of an image (the same bytes)
    stay together: else some fold would validate on what it was trained on. UsageError for fewer than two folds,
    InputError where a class has fewer different images than there are folds: some fold could not validate it.
    """
    if folds < 2:
        raise UsageError(f"`folds` {folds}: must be 2 or more; 5 is usual")
    target_N = np.array(images.targets, np.int64)
    first_N = np.arange(len(target_N))  # of its copies
    for first, *others in copies(images.files, range(len(images.files))):
        first_N[others] = first
    is_first_N = first_N == np.arange(len(target_N))
    counts = np.bincount(target_N[is_first_N], minlength=len(images.class_ids))
    smallest = int(counts.argmin())
    if counts[smallest] < folds:
        found = int(counts[smallest])
        fix = f"use `folds` {found}, or add images" if found >= 2 else "add images, or remove the class"
        kind = "image" if is_first_N[target_N == smallest].all() else "different image"
        raise InputError(f"`folds` {folds}: class {images.class_ids[smallest]!r} has {counted(found, kind)}; {fix}")
    fold_N = np.zeros(len(target_N), np.int64)
    rng = np.random.default_rng(seed)
    turn = 0
    for number in range(len(counts)):
        members = rng.permutation(np.flatnonzero(is_first_N & (target_N == number)))
        # The first fold of a class is the one after the last class's last: the folds' sizes differ by one at most.
        fold_N[members] = (turn + np.arange(len(members))) % folds
        turn += len(members)
    fold_N = fold_N[first_N]
    for fold in range(folds):
        yield images.where(fold_N != fold), images.where(fold_N == fold)
