"""A store of two engines, and images on which some of their answers are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models.bundles import make_workplace
from tests.helpers.photos import CLASSES

IMAGES = 40
"""Per class; three classes."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """With an outlier that tells int8 from float32 but does not ruin it, and ``data``: colours between classes."""
    root = tmp_path_factory.mktemp("confidence")
    # max: six images are too few values for a histogram
    make_workplace(root, photo_folder, outlier=2.0, calibration_method="max")
    rng = np.random.default_rng(0)
    colours = np.array([*CLASSES.values()], np.float64)
    for k, name in enumerate(CLASSES):
        (root / "data" / name).mkdir(parents=True)
        for i in range(IMAGES):
            share = rng.uniform(0, 0.6)  # beyond a half, the other class is nearer
            colour = (1 - share) * colours[k] + share * colours[(k + 1 + i % 2) % 3]
            pixels = np.clip(rng.normal(colour, 5, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    (root / "outliers").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / "outliers" / f"{i}.png")
    return root
