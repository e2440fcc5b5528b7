"""The crop and its offset, against Pillow's own resize of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import CropOffset, Preprocessing
from alexnet_deploy.images.decode import to_pixels

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8))


def test_nearest_is_exactly_the_crop_of_the_resized_image() -> None:
    pre = Preprocessing(20, 24, "shorter-side", 32, "nearest")
    whole = IMAGE.resize((97 * 32 // 61, 32), Image.Resampling.NEAREST)
    # 50 - 24 = 26 and 32 - 20 = 12
    np.testing.assert_array_equal(to_pixels(IMAGE, pre), np.asarray(whole)[6:26, 13:37])


@pytest.mark.parametrize(("offset", "left"), [("round", 14), ("floor", 13)])
def test_half_a_pixel_of_offset_goes_where_the_tool_puts_it(offset: CropOffset, left: int) -> None:
    pre = Preprocessing(20, 23, "shorter-side", 32, "nearest", crop_offset=offset)
    whole = IMAGE.resize((50, 32), Image.Resampling.NEAREST)
    # (50 - 23) / 2 = 13.5: half to even is 14
    np.testing.assert_array_equal(to_pixels(IMAGE, pre), np.asarray(whole)[6:26, left : left + 23])


def test_a_panorama_does_not_need_the_memory_of_its_resized_form() -> None:
    line = Image.new("RGB", (400_000, 1), (10, 20, 30))  # resized it would have 26 billion pixels
    pre = Preprocessing(8, 8, "shorter-side", 256, "nearest")
    assert (to_pixels(line, pre) == (10, 20, 30)).all()
