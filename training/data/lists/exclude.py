"""Images that a list leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from alexnet_deploy.errors import InputError
from alexnet_deploy.json_format import read_users_file
from training.data.lists.listing import ImageList


def exclude_images(data: Path, listing: Path, *splits: ImageList) -> tuple[ImageList, ...]:
    """``splits`` without the files that ``listing`` names, one per line; empty lines and ``#`` comments do not count.

    A name is a path as it is, or relative to ``data`` or to the folder of a split. InputError if a line names no image
    of the splits: a typing error would leave the wrong image in. Likewise if no image of a class is left in the first
    split, which is for training, or none at all in the second, which is for validation.
    """
    try:
        lines = read_users_file(listing).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as exc:
        raise InputError(f"`exclude` {listing}: is not a readable list ({exc}); write one path per line") from exc
    known = {os.path.abspath(file) for images in splits for file in images.files}
    roots: tuple[str | Path, ...] = ("", data if data.is_dir() else data.parent, *(images.root for images in splits))
    excluded: set[str] = set()
    unknown: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        found = {path for root in roots if (path := os.path.abspath(os.path.join(root, name))) in known}
        excluded |= found
        if not found:
            unknown.append((number, name))
    if unknown:
        number, name = unknown[0]
        more = f" ({len(unknown)} such lines)" if len(unknown) > 1 else ""
        raise InputError(
            f"`exclude` {listing}: line {number}, {name!r}, is no image of {data}{more}; "
            "give paths relative to it, or remove the line"
        )
    left = tuple(
        images.where(np.array([os.path.abspath(file) not in excluded for file in images.files], bool))
        for images in splits
    )
    for number in sorted(set(splits[0].targets) - set(left[0].targets)):
        raise InputError(
            f"`exclude` {listing}: leaves no training image of class {splits[0].class_ids[number]!r}; remove some of "
            f"its lines, or take the class out of {data}"
        )
    if not all(images.files for images in left):
        raise InputError(
            f"`exclude` {listing}: leaves no validation image; remove some of its lines, or give other images as `val`"
        )
    return left
