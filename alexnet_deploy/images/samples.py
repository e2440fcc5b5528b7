"""The sample photos, and real pixels for a proof of parity."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images

PARITY_IMAGES = 16
"""A wrong weight or layout is visible on the first image; more images only cost time."""


def sample_photos() -> list[Path]:
    """The freely licensed photos that come with this package (``samples/`` in a checkout)."""
    package = Path(__file__).parents[1]
    folder = next(f for f in (package / "data" / "samples", package.parent / "samples") if f.is_dir())
    return list(find_images([folder]))


def parity_pixels(parity_images: str | Path | None, pre: Preprocessing) -> NDArray[np.uint8]:
    """Pixels ``[N, H, W, 3]`` of up to ``PARITY_IMAGES`` readable images of a folder (None: the sample photos)."""
    files = sample_photos() if parity_images is None else find_images([parity_images])
    pixels = []
    for file in islice(files, PARITY_IMAGES):
        try:
            pixels.append(load_pixels(file, pre))
        except InputError:
            continue
    if not pixels:
        raise InputError(
            f"{parity_images}: none of its first {PARITY_IMAGES} images can be read; choose other `parity_images`"
        )
    return np.stack(pixels)
