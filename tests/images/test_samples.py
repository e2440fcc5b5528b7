"""The sample photos and the pixels that parity is proved on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.samples import PARITY_IMAGES, parity_pixels, sample_photos
from tests.helpers.repository import ROOT


def test_every_sample_has_a_licence() -> None:
    table = (ROOT / "samples/LICENSES.md").read_text(encoding="utf-8")
    photos = sample_photos()
    assert 8 <= len(photos) <= 16
    assert [photo.name for photo in photos if f"| `{photo.name}` |" not in table] == []
    assert {path.name for path in (ROOT / "samples").iterdir()} == {photo.name for photo in photos} | {"LICENSES.md"}


def test_the_samples_are_what_a_folder_of_photos_is() -> None:
    """Grey, transparent and turned photos are among them, so the demo runs through those paths."""
    modes = set()
    orientations = set()
    for photo in sample_photos():
        with Image.open(photo) as image:
            modes.add(image.mode)
            orientations.add(image.getexif().get(0x0112, 1))
    assert {"RGB", "L", "RGBA"} <= modes
    assert orientations == {1, 6}


def test_parity_pixels_skip_what_cannot_be_read_and_stop_at_their_number(tmp_path: Path) -> None:
    pre = Preprocessing(16, 16, "stretch", None)
    (tmp_path / "00.jpg").write_bytes(b"broken")
    for index in range(1, PARITY_IMAGES + 5):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index:02d}.png")
    pixels_NHWC = parity_pixels(tmp_path, pre)
    assert pixels_NHWC.shape == (PARITY_IMAGES - 1, 16, 16, 3)
    np.testing.assert_array_equal(pixels_NHWC[0], load_pixels(tmp_path / "01.png", pre))


def test_parity_needs_one_readable_image(tmp_path: Path) -> None:
    (tmp_path / "00.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match="choose other `parity_images`"):
        parity_pixels(tmp_path, Preprocessing())
