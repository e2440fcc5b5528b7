"""The crop and its offset, against Pillow's own resize of the whole image, in torchvision's geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import CropOffset, Preprocessing
from alexnet_deploy.images.decode import to_pixels
from tests.helpers.pictures import noise

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


def torchvision_style(image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    """Resize(resize_to) + CenterCrop as torchvision computes them, with Pillow, one after the other."""
    assert pre.resize_to is not None
    short, long = sorted(image.size)
    size = pre.resize_to, int(pre.resize_to * long / short)
    width, height = size if image.width <= image.height else size[::-1]
    resized = image.resize((width, height), getattr(Image.Resampling, pre.interpolation.upper()))
    left, top = int(round((width - pre.width) / 2.0)), int(round((height - pre.height) / 2.0))  # noqa: RUF046
    return np.asarray(resized.crop((left, top, left + pre.width, top + pre.height)))


@given(
    width=st.integers(8, 200),
    height=st.integers(8, 200),
    crop=st.tuples(st.integers(20, 32), st.integers(20, 32)),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
@settings(max_examples=150, deadline=None)
def test_the_fused_crop_is_resize_then_crop(width: int, height: int, crop: tuple[int, int], interpolation: str) -> None:
    pre = Preprocessing(height=crop[0], width=crop[1], resize_to=32, interpolation=interpolation)  # type: ignore[arg-type]
    image = Image.fromarray(noise(height, width) // 2 + 64)  # bicubic overshoots; clipping would hide the rule
    difference = np.abs(to_pixels(image, pre).astype(int) - torchvision_style(image, pre))
    # Pillow rounds to 8 bits after each of its two passes and picks their order by cost, which the crop changes.
    assert difference.max() <= 2
    assert difference.mean() < 0.35


@given(width=st.integers(8, 200), height=st.integers(8, 200), crop=st.integers(20, 32))
@settings(max_examples=60, deadline=None)
def test_nearest_takes_single_pixels(width: int, height: int, crop: int) -> None:
    """A coordinate on the border of two pixels may fall to either, so they are compared in the original's grid."""
    pre = Preprocessing(height=crop, width=crop, resize_to=32, interpolation="nearest")
    columns, rows = np.meshgrid(np.arange(width, dtype=np.uint8), np.arange(height, dtype=np.uint8))
    image = Image.fromarray(np.dstack([columns, rows, rows]))
    difference = np.abs(to_pixels(image, pre).astype(int) - torchvision_style(image, pre))
    assert difference.max() <= 1


def test_the_crop_of_a_smooth_picture_differs_by_rounding_only() -> None:
    ramp = np.linspace(0, 255, 500 * 375 * 3).reshape(375, 500, 3).astype(np.uint8)
    image = Image.fromarray(ramp)
    difference = np.abs(to_pixels(image, Preprocessing()).astype(int) - torchvision_style(image, Preprocessing()))
    assert difference.mean() < 0.01  # 0.001 on photos of this size: some roundings fall the other way


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_extreme_aspect_ratios_need_no_room_for_what_is_cut(size: tuple[int, int]) -> None:
    assert (to_pixels(Image.new("RGB", size, (9, 8, 7)), Preprocessing()) == (9, 8, 7)).all()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("height_width", [(50, 40), (10, 30)], ids=["another shape", "the right size"])
def test_stretch_ignores_the_aspect_ratio(height_width: tuple[int, int], interpolation: str) -> None:
    pre = Preprocessing(height=10, width=30, resize="stretch", resize_to=None, interpolation=interpolation)  # type: ignore[arg-type]
    image = Image.fromarray(noise(*height_width))
    rule = getattr(Image.Resampling, interpolation.upper())
    expected = image if height_width == (10, 30) else image.resize((30, 10), rule)
    np.testing.assert_array_equal(to_pixels(image, pre), np.asarray(expected))
