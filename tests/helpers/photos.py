"""A folder of labelled photos that costs nothing to make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"n01_red": (200, 60, 50), "n02_green": (60, 190, 70), "n03_blue": (50, 70, 200)}
"""Class folders of ``photo_folder`` and the RGB colour that tells each class."""


def save_photo(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A noisy JPEG, 80 x 60 or upright, of one colour."""
    rng = np.random.default_rng(seed)
    shape = (60, 80, 3) if seed % 2 else (80, 60, 3)
    pixels = np.clip(rng.normal(colour, 40, shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)
