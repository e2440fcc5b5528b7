"""Which images calibrate: chosen by seed, balanced over classes, hashed, streamed through ``images.py``."""

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
from alexnet_deploy.images.find import find_images

# Legend: N batch, H height, W width, C channel (RGB)

DEFAULT_IMAGES = 512
"""TensorRT's guide finds about 500 images enough for ImageNet networks."""

FLAGS = ("--calibration-data", "--calibration-images")
"""How the command line calls a folder to choose from, and the count."""


_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""What data sets call their parts, first the one that may calibrate. Other names with folders inside may be classes."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """The images, in the order in which they calibrate, with the hash of each file's content."""

    root: Path
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    seed: int

    def batches(self, pre: Preprocessing, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Pixels ``[n, H, W, 3]``, n = ``batch`` but for the last; only one batch is in memory."""
        for start in range(0, len(self.files), batch):
            yield np.stack([load_pixels(file, pre) for file in self.files[start : start + batch]])

    def digest(self) -> str:
        """``images_digest`` of the images."""
        return images_digest(self.sha256)


def images_digest(sha256: Iterable[str]) -> str:
    """SHA-256 over images' hashes in order: equal for equal images, wherever they lie."""
    return hashlib.sha256("\n".join(sha256).encode()).hexdigest()


def choose_images(
    root: Path,
    *,
    count: int = DEFAULT_IMAGES,
    seed: int = 0,
    flags: tuple[str, str] = FLAGS,
    fewer: Callable[[int], str] | None = None,
) -> CalibrationSet:
    """Choose ``count`` readable, distinct images below ``root``.

    Where ``root`` holds folders they are taken for classes and drawn from in turn; the draw depends on ``seed`` and
    the file names alone. A file that is no image, or the same bytes as one already chosen, is passed over.
    Errors call the folder and the count by ``flags``; ``fewer`` tells which flags would do with a smaller count (None:
    the second of ``flags``).
    Raises InputError where a class folder holds no image, ``root`` not enough usable ones, or where it is the folder
    above class folders, ``train`` and ``val`` say.
    """
    if count < 1:
        raise UsageError(f"{flags[1]} {count}: takes 1 or more; {DEFAULT_IMAGES} is a good number")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {flags[0]} takes a folder of images like those of production")
    groups: dict[str, list[Path]] = {}
    for file in find_images([root]):
        relative = file.relative_to(root)
        groups.setdefault(relative.parts[0] if len(relative.parts) > 1 else "", []).append(file)
    if FLAGS[1] in flags[1]:  # where images only compare engines, those of all splits may
        _refuse_splits(root, groups, flags[0])
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
        raise InputError(f"{root}: holds no readable image; {flags[0]} takes a folder of photos")
    useless = sum(map(len, groups.values())) - len(chosen)
    instead = fewer(len(chosen)) if fewer else f"{flags[1]} {len(chosen)}"
    raise InputError(
        f"{root}: holds {len(chosen)} usable images{f' ({useless} more are damaged or copies)' if useless else ''}, "
        f"{flags[1]} asks for {count}; add images, or accept fewer with {instead}"
    )


def _refuse_splits(root: Path, groups: Mapping[str, list[Path]], flag: str) -> None:
    """The splits of a data set would pass for its classes, and the images that judge an engine calibrate it."""
    splits = [
        name
        for name, files in groups.items()
        if name.lower() in _SPLITS and all(len(file.relative_to(root).parts) > 2 for file in files)
    ]
    if splits:
        right = min(splits, key=lambda name: _SPLITS.index(name.lower()))
        raise InputError(
            f"{root}: folder {right!r} is no class, but holds class folders; {flag} takes one split of a data set: "
            f"give {root / right}"
        )


def _refuse_empty_class(root: Path, classes: Collection[str]) -> None:
    """A class without an image would leave the balance silently; images beside the folders mean no classes at all."""
    if "" in classes:
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in classes:
            raise InputError(f"{folder}: is a class folder without an image; fill it, or take it away")


def _hash_of_image(file: Path) -> str | None:
    """SHA-256 of the file's content; None where it cannot be read as an image, a dangling link say."""
    try:
        load_pixels(file, Preprocessing(8, 8, "stretch", None))
        return sha256_of(file)
    except (InputError, OSError):
        return None
