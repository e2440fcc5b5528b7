"""A map of importance over the pixels that the network saw."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

# Legend: H height, W width, C channel (RGB)

_COLOURS = colormaps["RdBu_r"]
"""Blue below 0, red above: distinct with any of the common colour vision deficiencies."""
_STRONGEST = 0.8
"""Opacity of the largest value; the photo shows through everywhere."""
_PAPER = 0.5
"""How far the grey photo is moved towards white, so that colours stand out."""


def overlay(pixels_HWC: NDArray[np.uint8], map_HW: NDArray[np.floating], largest: float) -> Image.Image:
    """Draw ``map_HW`` over a pale grey copy of the photo: red above 0, blue below, clear at 0.

    A value of ``largest`` has the full colour; 0 stands for a map without any value, which leaves the photo grey. A map
    that is smaller than the photo is enlarged bilinearly.
    """
    height, width = pixels_HWC.shape[:2]
    if map_HW.shape != (height, width):
        small = Image.fromarray(map_HW.astype(np.float32))
        map_HW = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    share_HW = np.clip(map_HW / largest, -1, 1) if largest > 0 else np.zeros((height, width))
    grey_HW = np.asarray(Image.fromarray(pixels_HWC).convert("L"), dtype=np.float64)
    pale_HW1 = (grey_HW + (255 - grey_HW) * _PAPER)[..., None]
    colour_HWC = 255 * _COLOURS((share_HW + 1) / 2)[..., :3]
    opacity_HW1 = _STRONGEST * np.abs(share_HW)[..., None]
    mixed_HWC = opacity_HW1 * colour_HWC + (1 - opacity_HW1) * pale_HW1
    return Image.fromarray(np.round(mixed_HWC).astype(np.uint8))


def largest_of(*maps: NDArray[np.floating]) -> float:
    """The largest absolute value of maps that share one scale."""
    return max((float(np.abs(each).max()) for each in maps), default=0.0)
