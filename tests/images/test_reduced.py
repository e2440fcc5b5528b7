"""Large JPEGs decoded at a reduced size: which ones, by how much, and where each part of the picture then lies."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_deploy.contract import Decoding, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.formats import before_decoding
from alexnet_deploy.images.decode import load_pixels, open_crop, open_photo, open_rgb, to_pixels

STRETCH = Preprocessing(16, 16, "stretch", None, decoding="reduced-2x")
CROP = Preprocessing(16, 12, "shorter-side", 18, decoding="reduced-2x")
RULES = pytest.mark.parametrize("pre", [STRETCH, CROP], ids=["stretch", "crop"])
KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "full colour": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "grey": {"mode": "L"},
    "progressive grey": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def ramp(width: int, height: int) -> NDArray[np.uint8]:
    """A picture on which any shift shows: red grows to the right, green downwards, blue to the left."""
    x, y = np.linspace(0, 255, width)[None], np.linspace(0, 255, height)[:, None]
    return np.dstack([x + 0 * y, y + 0 * x, 255 - x + 0 * y]).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], mode: str = "RGB", orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", quality=95, exif=exif, **options)
    return stream.getvalue()


def full(pre: Preprocessing) -> Preprocessing:
    return dataclasses.replace(pre, decoding="full")


def both(content: bytes, pre: Preprocessing) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels by the rule of ``pre``, and those of full decoding."""
    return to_pixels(open_photo(content, pre), pre).astype(int), to_pixels(open_rgb(content), pre).astype(int)


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    rule=st.sampled_from(get_args(Decoding)),
    pre=st.sampled_from([STRETCH, CROP]),
)
@settings(max_examples=150, deadline=None)
def test_the_shorter_side_decides_and_what_is_too_small_stays_as_it_was(
    width: int, height: int, rule: Decoding, pre: Preprocessing
) -> None:
    pre = dataclasses.replace(pre, decoding=rule)
    content = jpeg(np.resize(PIXELS, (height, width, 3)), subsampling=0)
    photo = open_photo(content, pre)
    least = {"full": 1000, "reduced-2x": 2, "reduced-3x": 3, "reduced-4x": 4}[rule] * (pre.resize_to or 16)
    assert photo.scale == max(s for s in (1, 2, 4, 8) if s == 1 or min(width, height) >= s * least)
    assert photo.size == (width, height)
    assert photo.image.size == (-(-width // photo.scale), -(-height // photo.scale))
    if photo.scale == 1:
        np.testing.assert_array_equal(np.asarray(photo.image), np.asarray(open_rgb(content)))


@RULES
@pytest.mark.parametrize("orientation", range(9))  # 0 is none
@pytest.mark.parametrize("size", [(73, 95), (145, 149), (297, 301), (1201, 75)], ids=str)
def test_every_part_of_the_picture_stays_in_its_place(
    pre: Preprocessing, orientation: int, size: tuple[int, int]
) -> None:
    """libjpeg rounds sizes up: without its share of the last column, all would shift by up to a pixel of the result."""
    reduced, expected = both(jpeg(ramp(*size), orientation=orientation, subsampling=0), pre)
    # A pixel of the result is up to 15 grey levels wide here; 2 are left for the rounding of two resizes and the JPEG.
    assert np.abs(reduced - expected).max() <= 2


@RULES
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_its_colours(pre: Preprocessing, kind: str) -> None:
    options = dict(KINDS[kind])
    mode = str(options.pop("mode", "RGB"))
    coarse = Image.fromarray(PIXELS[:6, :8]).resize((401, 303), Image.Resampling.BICUBIC)
    content = jpeg(np.asarray(coarse), mode, **options)
    assert open_photo(content, pre).scale == 8
    reduced, expected = both(content, pre)
    assert np.abs(reduced - expected).mean() < 1.5  # another colour or another place: dozens


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_is_refused_at_any_scale(kind: str) -> None:
    options = dict(KINDS[kind])
    mode = str(options.pop("mode", "RGB"))
    content = jpeg(np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8), mode, **options)
    start = content.rindex(b"\xff\xc0" if "progressive" not in kind else b"\xff\xc2")
    for factor in (1, 2, 4):
        pre = Preprocessing(16 // factor, 16 // factor, "stretch", None, decoding="reduced-2x")
        assert open_photo(content, pre).scale == 2 * factor
        # Nearer to the end than 40 bytes, the decoder's read-ahead can stand in for the last two blocks.
        for keep in range(start, len(content) - 40, 487):
            for end in (b"", b"\xff\xd9", content[-12:]):
                with pytest.raises(InputError):
                    open_photo(content[:keep] + end, pre)


@pytest.mark.parametrize("kind", KINDS)
def test_what_surrounds_a_picture_changes_nothing(kind: str) -> None:
    options = dict(KINDS[kind])
    mode = str(options.pop("mode", "RGB"))
    content = jpeg(np.resize(PIXELS, (70, 90, 3)), mode, **options)
    expected = np.asarray(open_photo(content, STRETCH).image)
    assert expected.shape == (35, 45, 3)
    for variant in (content[:-2], content + content, content + bytes(1000), content[:-2] + bytes(20) + b"\xff\xd9"):
        np.testing.assert_array_equal(np.asarray(open_photo(variant, STRETCH).image), expected)


def as_png(image: Image.Image, stream: io.BytesIO) -> None:
    image.save(stream, "PNG")


def as_mpo(image: Image.Image, stream: io.BytesIO) -> None:
    image.save(stream, "MPO", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])


@pytest.mark.parametrize(("save", "scale"), [(as_png, 1), (as_mpo, 4)])
def test_only_jpegs_are_reduced(save: Callable[[Image.Image, io.BytesIO], None], scale: int) -> None:
    save(Image.fromarray(ramp(200, 150)), stream := io.BytesIO())
    photo = open_photo(stream.getvalue(), STRETCH)
    assert (photo.scale, photo.size) == (scale, (200, 150))
    reduced, expected = both(stream.getvalue(), STRETCH)
    assert np.abs(reduced - expected).max() <= (0 if scale == 1 else 2)  # of a ramp, as above


def test_single_pixels_are_not_taken_from_a_reduced_picture() -> None:
    pre = dataclasses.replace(CROP, interpolation="nearest")
    content = jpeg(np.resize(PIXELS, (300, 400, 3)))
    np.testing.assert_array_equal(*both(content, pre))
    assert pre.decoded_side is None


def test_files_and_uploads_have_the_same_pixels(tmp_path: Path) -> None:
    content = jpeg(ramp(301, 203), orientation=6)
    (tmp_path / "a.jpg").write_bytes(content)
    np.testing.assert_array_equal(load_pixels(tmp_path / "a.jpg", CROP), to_pixels(open_photo(content, CROP), CROP))


def test_the_limit_counts_the_picture_in_full_and_the_memory_what_is_taken() -> None:
    plain, progressive = jpeg(ramp(400, 300)), jpeg(ramp(400, 300), progressive=True)
    for content, taken in ((plain, 50 * 38), (progressive, 400 * 300)):  # a progressive one collects all coefficients
        announced: list[int] = []
        with before_decoding(announced.append):
            open_photo(content, STRETCH, max_pixels=400 * 300)
        assert max(announced) == taken
        with pytest.raises(InputError, match="has 400 x 300 pixels, above the limit of 119999"):
            open_photo(content, STRETCH, max_pixels=400 * 300 - 1)


def test_what_a_full_decoder_reads_from_a_reduced_file_is_what_pillow_draws(tmp_path: Path) -> None:
    """The scale is libjpeg's, so that other programs can repeat the pixels."""
    content = jpeg(np.resize(PIXELS, (300, 400, 3)))
    image = Image.open(io.BytesIO(content))
    image.draft(None, (32, 32))
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(open_photo(content, STRETCH).image), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("box", "scale"),
    [((0, 0, 128, 64), 4), ((32, 0, 96, 64), 2), ((33, 17, 96, 64), 1)],  # pixels for each of 16 x 8: 8, 4, below 4
)
def test_a_crop_is_taken_from_a_picture_that_keeps_twice_its_pixels(
    tmp_path: Path, orientation: int, box: tuple[int, int, int, int], scale: int
) -> None:
    stored = ramp(128, 64) if orientation < 5 else ramp(64, 128)
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(stored, orientation=orientation))
    drawn: list[tuple[int, int]] = []

    def choose(width: int, height: int) -> tuple[int, int, int, int]:
        drawn.append((width, height))
        return box

    photo, chosen = open_crop(path, choose, STRETCH, 8, 16)
    assert (drawn, chosen, photo.scale) == ([(128, 64)], box, scale)
    got = np.asarray(photo.image.resize((16, 8), Image.Resampling.BILINEAR, box=photo.place(chosen)), int)
    expected = np.asarray(open_rgb(path).resize((16, 8), Image.Resampling.BILINEAR, box=box), int)
    # A step of red is two grey levels per pixel in full: half a pixel in the wrong place would show all over.
    assert np.abs(got - expected).mean() < (1 if scale > 1 else 1e-9)


def test_a_crop_of_another_format_is_chosen_from_its_size(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(ramp(128, 64)).save(path)
    photo, box = open_crop(path, lambda width, height: (0, 0, width, height), STRETCH, 8, 8)
    assert (photo.scale, photo.size, box) == (1, (128, 64), (0, 0, 128, 64))
