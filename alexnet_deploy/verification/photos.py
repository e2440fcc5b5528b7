"""The photos on which a model is tried."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.samples import parity_pixels

# Legend: N image, H height, W width, C channel (RGB)

_MOST_BYTES = 64 << 20
"""Pixels of all photos together: the largest input side that a contract allows takes 50 MB per photo."""


@functools.lru_cache(maxsize=4)
def photo_pixels(pre: Preprocessing, folder: Path | None = None) -> NDArray[np.uint8]:
    """Pixels ``[N, H, W, 3]`` of photos in ``folder`` (None: the sample photos), at least 2; must not be written to.

    Raises InputError for a folder without a readable image.
    """
    return tried_pixels(parity_pixels(folder, pre))


def tried_pixels(pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``pixels_NHWC``, at least 2 and not too many; must not be written to."""
    pixels_NHWC = pixels_NHWC[: max(2, _MOST_BYTES // pixels_NHWC[0].nbytes)]
    if len(pixels_NHWC) == 1:  # a batch needs a second, different image
        pixels_NHWC = np.concatenate([pixels_NHWC, pixels_NHWC[:, ::-1]])
    pixels_NHWC.flags.writeable = False
    return pixels_NHWC
