"""Alpha that is there in name only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.images.decode import open_rgb

RGB = np.random.default_rng(0).integers(1, 256, (16, 16, 3), dtype=np.uint8)
SAVED: dict[str, dict[str, Any]] = {
    "a.tga": {},
    "b.tga": {"compression": "tga_rle"},
    "c.ico": {"bitmap_format": "bmp", "sizes": [(16, 16)]},
}


@pytest.mark.parametrize("name", SAVED)
def test_an_alpha_of_zeros_everywhere_is_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    alpha = np.zeros(RGB.shape[:2], np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(path, **SAVED[name])
    np.testing.assert_array_equal(np.asarray(open_rgb(path)), RGB)
    alpha[3, 5] = 255
    Image.fromarray(np.dstack([RGB, alpha])).save(path, **SAVED[name])
    expected = np.full_like(RGB, 255)
    expected[3, 5] = RGB[3, 5]
    np.testing.assert_array_equal(np.asarray(open_rgb(path)), expected)


def test_a_grey_alpha_of_zeros_everywhere_is_none(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    Image.fromarray(np.dstack([grey, np.zeros_like(grey)])).save(tmp_path / "a.tga")
    np.testing.assert_array_equal(np.asarray(open_rgb(tmp_path / "a.tga"))[..., 1], grey)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_other_formats_mean_what_they_say(tmp_path: Path, name: str) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / name)
    assert (np.asarray(open_rgb(tmp_path / name)) == 255).all()
