"""The training and validation images of a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from alexnet_deploy.errors import UsageError
from training.data.lists.exclude import exclude_images
from training.data.lists.listing import ImageList, find_splits, list_class_folders, list_val_images, train_val_split

MIN_HELD_OUT = 100
"""Where a tenth of the images are fewer, a fifth is held out: of 180 images, 18 give an interval of 40 points."""


def list_splits(
    data: Path,
    *,
    val: Path | None = None,
    val_labels: Path | None = None,
    val_share: float | None = None,
    exclude: Path | None = None,
    seed: int = 0,
) -> tuple[ImageList, ImageList]:
    """Training and validation images of ``data``, without those that the list ``exclude`` names.

    ``val`` stands for the validation split of ``data``. Where there is none, ``seed`` chooses ``val_share`` of each
    class. Raises UsageError for parameters that contradict one another, and the errors of the functions that list.
    """
    train_images, val_folder = list_training(data)
    val_folder = val or val_folder
    if val_folder is None:
        if val_labels is not None:
            raise UsageError(f"`val_labels` {val_labels}: needs a validation folder; add `val`")
        if exclude is not None:
            (train_images,) = exclude_images(data, exclude, train_images)
        if val_share is None:
            val_share = 0.1 if len(train_images.files) >= 10 * MIN_HELD_OUT else 0.2
        return train_val_split(train_images, val_share, seed)
    if val_share is not None:
        raise UsageError(f"`val_share` {val_share}: {val_folder} is for validation; leave `val_share` out")
    val_images = list_val_images(val_folder, train_images.class_ids, val_labels)
    if exclude is not None:
        train_images, val_images = exclude_images(data, exclude, train_images, val_images)
    return train_images, val_images


def list_training(data: Path) -> tuple[ImageList, Path | None]:
    """The training images of ``data`` and its validation folder; the notes of the list say what was taken for what."""
    splits = find_splits(data)
    images = list_class_folders(splits.train)
    return dataclasses.replace(images, notes=(*splits.notes, *images.notes)), splits.val
