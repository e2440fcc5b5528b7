"""Resize and crop: the geometry of torchvision, without the part that is cut away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import to_pixels
from tests.images.test_decode import noise


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
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@settings(max_examples=150, deadline=None)
def test_the_fused_crop_is_resize_then_crop(width: int, height: int, crop: tuple[int, int], interpolation: str) -> None:
    pre = Preprocessing(height=crop[0], width=crop[1], resize_to=32, interpolation=interpolation)  # type: ignore[arg-type]
    image = Image.fromarray(noise(height, width) // 2 + 64)  # bicubic overshoots; clipping would hide the rule
    difference = np.abs(to_pixels(image, pre).astype(int) - torchvision_style(image, pre))
    # Pillow rounds to 8 bits after each of its two passes and picks their order by cost, which the crop changes.
    assert difference.max() <= 2
    assert difference.mean() < 0.35


def test_the_crop_of_a_smooth_picture_differs_by_rounding_only() -> None:
    ramp = np.linspace(0, 255, 500 * 375 * 3).reshape(375, 500, 3).astype(np.uint8)
    image = Image.fromarray(ramp)
    difference = np.abs(to_pixels(image, Preprocessing()).astype(int) - torchvision_style(image, Preprocessing()))
    assert difference.mean() < 0.01  # 0.001 on photos of this size: some roundings fall the other way


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_extreme_aspect_ratios_need_no_room_for_what_is_cut(size: tuple[int, int]) -> None:
    assert (to_pixels(Image.new("RGB", size, (9, 8, 7)), Preprocessing()) == (9, 8, 7)).all()


def test_stretch_ignores_the_aspect_ratio() -> None:
    pre = Preprocessing(height=10, width=30, resize="stretch", resize_to=None)
    image = Image.fromarray(noise(50, 40))
    np.testing.assert_array_equal(to_pixels(image, pre), np.asarray(image.resize((30, 10), Image.Resampling.BILINEAR)))


def test_a_stretched_image_of_the_right_size_is_untouched() -> None:
    pixels = noise(28, 28)
    pre = Preprocessing(height=28, width=28, resize="stretch", resize_to=None)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(pixels), pre), pixels)
