"""The ten views of a picture: where they lie, for every rule of a contract, and what they are without a margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.contract import MAX_SIDE, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.ten_crops import has_margin, picture_for_crops, ten_crops

RULES: tuple[dict[str, Any], ...] = (
    {"resize": "shorter-side", "resize_to": 40},
    {"resize": "shorter-side", "resize_to": 41, "crop_offset": "floor"},
    {"resize": "shorter-side", "resize_to": 40, "interpolation": "nearest"},
    {"resize": "stretch", "resize_to": 40},
    {"resize": "stretch", "resize_to": 41, "crop_offset": "floor"},
    {"resize": "stretch", "resize_to": 33, "height": 20},
)


def places(height: int, width: int) -> Any:
    """A picture whose two channels are the row and the column."""
    return np.indices((height, width)).transpose(1, 2, 0).astype(np.uint8)


def test_corners_and_centre_and_their_mirror_images() -> None:
    views_VHWC = ten_crops(places(256, 256), Preprocessing())
    assert views_VHWC.shape == (10, 224, 224, 2)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    assert [tuple(view[0, 0]) for view in views_VHWC[:5]] == corners
    assert [tuple(view[0, -1]) for view in views_VHWC[5:]] == corners
    assert np.array_equal(views_VHWC[5:], views_VHWC[:5, :, ::-1])


@given(height=st.integers(1, 24), width=st.integers(1, 24), more=st.integers(0, 9), seed=st.integers(0, 99))
def test_all_views_lie_inside_and_the_corners_reach_the_edges(height: int, width: int, more: int, seed: int) -> None:
    offset = ("round", "floor")[seed % 2]
    pre = Preprocessing(height, width, "stretch", max(height, width) + more, crop_offset=offset)  # type: ignore[arg-type]
    picture = picture_for_crops(pre)
    views_VHWC = ten_crops(places(picture.height, picture.width), pre)
    assert views_VHWC.shape == (10, height, width, 2)
    assert tuple(views_VHWC[0, 0, 0]) == (0, 0)
    assert tuple(views_VHWC[3, -1, -1]) == (picture.height - 1, picture.width - 1)
    for view_HWC in views_VHWC[:5]:
        y, x = view_HWC[0, 0].astype(int)
        assert np.array_equal(view_HWC, places(picture.height, picture.width)[y : y + height, x : x + width])


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (120, 40), (40, 40), (17, 90)])
@pytest.mark.parametrize("rules", RULES)
def test_the_fifth_view_is_what_a_single_view_sees(
    rules: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    pre = Preprocessing(**{"height": 32, "width": 32} | rules)
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "x.png")
    centre_HWC = ten_crops(load_pixels(tmp_path / "x.png", picture_for_crops(pre)), pre)[4].astype(int)
    single_HWC = load_pixels(tmp_path / "x.png", pre).astype(int)
    # The place of the crop is rounded once there and twice here, so it may lie one pixel further.
    inside_HWC = single_HWC[1:-1, 1:-1]
    height, width = inside_HWC.shape[:2]
    near = [np.abs(centre_HWC[y : y + height, x : x + width] - inside_HWC) for y in range(3) for x in range(3)]
    # A box is resized in another pass: rounding may differ by a level. Nearest takes the same pixels.
    assert min(difference.max() for difference in near) <= (pre.interpolation != "nearest")


def test_the_picture_is_the_centre_at_the_resize_or_the_whole_where_it_stretches(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8))
    picture.save(tmp_path / "x.png")
    square_HWC = load_pixels(tmp_path / "x.png", picture_for_crops(Preprocessing()))
    assert np.array_equal(square_HWC, np.asarray(picture)[:, 22:278])
    for resize_to, size in ((None, (256, 256)), (240, (240, 240))):
        pre = Preprocessing(resize="stretch", resize_to=resize_to)
        whole_HWC = load_pixels(tmp_path / "x.png", picture_for_crops(pre))
        assert np.array_equal(whole_HWC, np.asarray(picture.resize(size, Image.Resampling.BILINEAR)))


def test_a_stretched_picture_keeps_the_shape_of_the_pixels() -> None:
    """Crops of a square would show a model of 112 x 224 pixels everything twice as high as it was trained on."""
    picture = picture_for_crops(Preprocessing(112, 224, "stretch", None))
    assert (picture.height, picture.width) == (128, 256)


def test_without_a_margin_the_views_are_the_image_and_its_mirror_image() -> None:
    for pre in (Preprocessing(resize_to=224), Preprocessing(resize="stretch", resize_to=224)):
        assert not has_margin(pre)
        views_VHWC = ten_crops(places(224, 224), pre)
        assert all(np.array_equal(view_HWC, views_VHWC[0]) for view_HWC in views_VHWC[:5])
        assert all(np.array_equal(view_HWC, views_VHWC[0, :, ::-1]) for view_HWC in views_VHWC[5:])
    assert has_margin(Preprocessing(resize_to=225))
    assert has_margin(Preprocessing(112, 224, resize_to=224)), "there is a margin above and below"
    assert has_margin(Preprocessing(resize="stretch", resize_to=None))


def test_a_picture_beyond_the_largest_side_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^`ten_crop`: crops of 4096 x 9 pixels need a picture of 4681 x 10, "):
        picture_for_crops(Preprocessing(MAX_SIDE, 9, "stretch", None))
    assert picture_for_crops(Preprocessing(9, 9, "stretch", MAX_SIDE)).height == MAX_SIDE
