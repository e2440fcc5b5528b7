"""Which images calibrate: chosen by seed, balanced over classes, hashed, recorded, streamed through ``images.py``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle import sha256_of
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images import find_images, load_pixels

# Legend: N batch, H height, W width, C channel (RGB)

DEFAULT_IMAGES = 512
"""TensorRT's guide finds about 500 images enough for ImageNet networks."""
RECORD_SCHEMA = 1

Method = Literal["max", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("max", "percentile", "entropy", "mse")
"""How a threshold is picked from a tensor's values; ``ranges.py`` defines each."""

METHODS_FOR: dict[str, tuple[Method, ...]] = {
    "int8": ("entropy", "mse", "percentile", "max"),
    "fp8": ("max", "percentile"),
}
"""What fits a type, its default first: entropy and mse weigh int8's even steps, which a float8 does not have."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """The images, in the order in which they calibrate, with the hash of each file's content."""

    root: Path
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    requested: int
    seed: int

    def batches(self, pre: Preprocessing, batch: int, *, fill: bool = False) -> Iterator[NDArray[np.uint8]]:
        """Pixels ``[n, H, W, 3]``, n = ``batch`` but for the last; only one batch is in memory.

        With ``fill`` the last batch is full, too, its last image repeated: for a model of a fixed batch size.
        """
        for start in range(0, len(self.files), batch):
            files = self.files[start : start + batch]
            if fill:
                files += files[-1:] * (batch - len(files))
            yield np.stack([load_pixels(file, pre) for file in files])

    def digest(self) -> str:
        """SHA-256 over the images' hashes in order: equal for equal images, wherever they lie."""
        return hashlib.sha256("\n".join(self.sha256).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """For ``calibration.json``: paths relative to the folder, so that no machine's layout is published."""
        return {
            "schema": RECORD_SCHEMA,
            "images": len(self.files),
            "images_requested": self.requested,
            "seed": self.seed,
            "digest": self.digest(),
            "files": [
                {"file": file.relative_to(self.root).as_posix(), "sha256": sha256}
                for file, sha256 in zip(self.files, self.sha256, strict=True)
            ],
        }


def choose_images(root: Path, *, count: int = DEFAULT_IMAGES, seed: int = 0) -> CalibrationSet:
    """Choose up to ``count`` readable, distinct images below ``root``.

    Where ``root`` holds folders they are taken for classes and drawn from in turn; the draw depends on ``seed`` and
    the file names alone. A file that is no image, or the same bytes as one already chosen, is passed over.
    Raises InputError where ``root`` has no usable image.
    """
    if count < 1:
        raise UsageError(f"--calibration-images {count}: takes 1 or more; {DEFAULT_IMAGES} is a good number")
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; --calibration-data takes a folder of images like those of production"
        )
    groups: dict[str, list[Path]] = {}
    for file in find_images([root]):
        relative = file.relative_to(root)
        groups.setdefault(relative.parts[0] if len(relative.parts) > 1 else "", []).append(file)
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
                break
    if not chosen:
        raise InputError(f"{root}: holds no readable image; --calibration-data takes a folder of photos")
    return CalibrationSet(root, tuple(chosen.values()), tuple(chosen), count, seed)


def _hash_of_image(file: Path) -> str | None:
    """SHA-256 of the file's content; None where it cannot be read as an image, a dangling link say."""
    try:
        load_pixels(file, Preprocessing(8, 8, "stretch", None))
        return sha256_of(file)
    except (InputError, OSError):
        return None
