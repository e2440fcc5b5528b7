"""The calibration images: chosen by seed, balanced over classes, hashed, decoded batch by batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images, is_clutter

# Legend: N batch, H height, W width, C channel (RGB)

_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""Names of the splits of a data set, first the one that may calibrate; any other name may be a class."""
_TINY = Preprocessing(8, 8, "stretch", None, decoding="reduced-2x")  # the whole file is read for any size


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Images in the order in which they calibrate, with the hash of each file's content."""

    root: Path
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    seed: int

    def batches(self, pre: Preprocessing, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Pixels ``[n, H, W, 3]``, n = ``batch`` except in the last; only one batch is in memory."""
        for start in range(0, len(self.files), batch):
            yield np.stack([load_pixels(file, pre) for file in self.files[start : start + batch]])

    def digest(self) -> str:
        """``images_digest`` of the images."""
        return images_digest(self.sha256)


def images_digest(sha256: Iterable[str]) -> str:
    """SHA-256 over the hashes of images in order: the same for the same images in any place."""
    return hashlib.sha256("\n".join(sha256).encode()).hexdigest()


def choose_images(
    root: Path,
    *,
    count: int,
    seed: int = 0,
    calibrates: bool = True,
    parameters: tuple[str, ...] = ("calibration_data", "calibration_images"),
    fewer: Callable[[int], str] | None = None,
) -> CalibrationSet:
    """Choose ``count`` readable, distinct images below ``root``.

    If ``root`` holds folders, they count as classes and are drawn from in turn. The draw depends only on ``seed`` and
    the file names. A file that is not an image, or has the same bytes as one already chosen, is skipped.

    If ``calibrates``, the images calibrate: then ``root`` may not be the folder above the splits of a data set
    (``train`` and ``val``), because the images that evaluate an engine must not calibrate it. ``parameters`` are the
    caller's names for the folder and for the count, which may be a sum; errors use them. ``fewer`` returns the
    parameters for a smaller count (None: the last of ``parameters``).
    Raises InputError if a class folder holds no image or ``root`` not enough usable ones.
    """
    folder, *counts = (f"`{parameter}`" for parameter in parameters)
    number = " and ".join(counts)
    if count < 1:
        raise UsageError(f"{number} {count}: must be 1 or more; about 500 are a good number")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {folder} must be a folder of images like those of production")
    groups: dict[str, list[Path]] = {}
    for file in find_images([root]):
        relative = file.relative_to(root)
        groups.setdefault(relative.parts[0] if len(relative.parts) > 1 else "", []).append(file)
    if calibrates:
        _refuse_splits(root, groups, folder)
    _refuse_empty_class(root, groups.keys())
    rng = random.Random(seed)
    for members in groups.values():
        members.sort()
        rng.shuffle(members)
    rounds = zip_longest(*(groups[name] for name in sorted(groups)))
    chosen: dict[str, Path] = {}
    for file in (file for files in rounds for file in files if file is not None):
        sha256 = _hash_of_image(file)
        if sha256 is not None and sha256 not in chosen:
            chosen[sha256] = file
            if len(chosen) == count:
                return CalibrationSet(root, tuple(chosen.values()), tuple(chosen), seed)
    if not chosen:
        first = next(file for members in groups.values() for file in members)
        raise InputError(f"{root}: holds no readable image, {folder} must be a folder of photos{_why_not(first)}")
    useless = sum(map(len, groups.values())) - len(chosen)
    others = f" ({useless} more are copies or cannot be decoded)" if useless else ""
    instead = fewer(len(chosen)) if fewer else f"{counts[-1]} {len(chosen)}"
    raise InputError(
        f"{root}: holds {len(chosen)} usable images{others}, "
        f"{number} requires {count}; add images, or accept fewer with {instead}"
    )


def _refuse_splits(root: Path, groups: Mapping[str, list[Path]], parameter: str) -> None:
    splits = [
        name
        for name, files in groups.items()
        if name.lower() in _SPLITS and all(len(file.relative_to(root).parts) > 2 for file in files)
    ]
    if splits:
        right = min(splits, key=lambda name: _SPLITS.index(name.lower()))
        raise InputError(
            f"{root}: folder {right!r} is not a class, it holds class folders; {parameter} must be one split of a data "
            f"set: give {root / right}"
        )


def _refuse_empty_class(root: Path, classes: Collection[str]) -> None:
    """A class without an image would silently unbalance the draw; images next to the folders mean no classes."""
    if "" in classes:
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not is_clutter(folder.name) and folder.name not in classes:
            raise InputError(f"{folder}: is a class folder without an image; fill it, or remove it")


def _why_not(file: Path) -> str:
    """The reason that an image cannot be read, to end a message with."""
    try:
        load_pixels(file, _TINY)
    except InputError as exc:
        return f": {exc}"
    return ""


def _hash_of_image(file: Path) -> str | None:
    """SHA-256 of the file's content; None if it cannot be read as an image."""
    try:
        load_pixels(file, _TINY)
        return sha256_of(file)
    except (InputError, OSError):
        return None
