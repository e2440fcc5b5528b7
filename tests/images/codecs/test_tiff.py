"""A TIFF is the same picture in every layout, or is refused by name: samples, planes, alpha, inks, palettes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import open_rgb
from tests.helpers.pictures import GREY, RGB, tiff


def grey(values: NDArray[np.generic], **tags: object) -> NDArray[np.uint8]:
    """The grey that ``open_rgb`` reads from a TIFF of these samples, in both byte orders."""
    little, big = (np.asarray(open_rgb(tiff(values, order=order, **tags))) for order in "<>")  # type: ignore[arg-type]
    np.testing.assert_array_equal(little, big)
    assert (little == little[..., :1]).all()
    return little[..., 0]


SAMPLES = {
    "u1": GREY,
    "u2": GREY.astype("u2") * 257,
    "u4": GREY.astype("u4") * 0x01010101,
    "16 bits in u4": GREY.astype("u4") * 257,
    "i1": (GREY.astype(int) - 128).astype("i1"),
    "i2": (GREY.astype(int) * 257 - 32768).astype("i2"),
    "i2 without negative ones": np.rint(GREY * (32767 / 255)).astype("i2"),
    "i4": (GREY.astype("i8") * 0x01010101 - 2**31).astype("i4"),
    "i4 without negative ones": np.rint(GREY * ((2**31 - 1) / 255)).astype("i4"),
    "f2": (GREY / 255).astype("f2"),
    "f4": (GREY / 255).astype("f4"),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "deflate"])
@pytest.mark.parametrize("white_is_zero", [False, True], ids=["black is zero", "white is zero"])
@pytest.mark.parametrize("name", SAMPLES)
def test_grey_samples_of_every_type_are_the_same_picture(name: str, white_is_zero: bool, compressed: bool) -> None:
    values = SAMPLES[name]
    if white_is_zero:
        top = 1 if values.dtype.kind == "f" else values.max() if values.min() >= 0 else -1
        values = (np.asarray(top, values.dtype) - values).astype(values.dtype)
    found = grey(values, photometric=0 if white_is_zero else 1, compressed=compressed)
    np.testing.assert_array_equal(found, GREY)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("extra", [1, 2], ids=["premultiplied", "straight"])
def test_grey_with_alpha_is_laid_over_white(kind: str, extra: int) -> None:
    white = np.iinfo(kind).max
    values = np.array([[[white, white], [0, white], [0, 0]]], kind)
    assert grey(values, photometric=1, extra=(extra,))[0].tolist() == [255, 0, 255]
    assert grey(values, photometric=0, extra=(extra,))[0].tolist()[:2] == [0, 255]


@pytest.mark.parametrize("white_is_zero", [False, True], ids=["light", "ink"])
@pytest.mark.parametrize("premultiplied", [False, True], ids=["straight", "premultiplied"])
def test_a_half_transparent_grey_is_halfway_to_white(premultiplied: bool, white_is_zero: bool) -> None:
    """Of black, dark grey and white, 128 of 255 opaque: 255 - (255 - grey) * 128 / 255, by hand."""
    alpha, greys = 128, np.array([0, 55, 255])
    stored = 255 - greys if white_is_zero else greys
    if premultiplied:
        stored = np.rint(stored * alpha / 255).astype(int)
    values = np.dstack([stored[None], np.full((1, 3), alpha)]).astype("u1")
    found = grey(values, photometric=0 if white_is_zero else 1, extra=(1 if premultiplied else 2,))
    np.testing.assert_allclose(found[0], [127, 155, 255], atol=1)  # what is stored is rounded


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "deflate"])
@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planes"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("extra", [(), (0,), (1,), (2,)], ids=["rgb", "unspecified", "premultiplied", "alpha"])
def test_colour_is_the_same_picture_in_every_arrangement(
    extra: tuple[int, ...], kind: str, planar: bool, compressed: bool
) -> None:
    white = np.iinfo(kind).max
    values = RGB.astype(kind) * np.array(white // 255, kind)
    if extra:
        values = np.dstack([values, np.full(GREY.shape, white, kind)])
    for order in "<>":
        content = tiff(values, order=order, photometric=2, planar=planar, compressed=compressed, extra=extra)
        np.testing.assert_array_equal(np.asarray(open_rgb(content)), RGB)


def test_cmyk_planes_of_16_bits() -> None:
    inks = np.dstack([255 - RGB, np.zeros_like(GREY)]).astype("u2") * 257
    for planar in (False, True):
        np.testing.assert_array_equal(np.asarray(open_rgb(tiff(inks, photometric=5, planar=planar))), RGB)


@pytest.mark.parametrize(("low", "high"), [(7, 7), (2650, 100)], ids=["equal", "exchanged"])
def test_stated_limits_without_a_range_do_not_count(low: int, high: int) -> None:
    found = grey(SAMPLES["u2"], photometric=1, tags={340: (3, low), 341: (3, high)})
    np.testing.assert_array_equal(found, GREY)


def test_32_bits_that_would_all_be_black_go_from_the_darkest_to_the_lightest() -> None:
    """A thousandth of white at most; above 16 bits, so that they are none of 16."""
    values = 100_000 + GREY.astype("u4") * 1000
    np.testing.assert_array_equal(grey(values, photometric=1), GREY)


def test_stated_limits_twelve_bits_and_a_palette_of_8_bits() -> None:
    values = GREY.astype("u2") * 10 + 100
    np.testing.assert_array_equal(grey(values, photometric=1, tags={340: (3, 100), 341: (3, 2650)}), GREY)
    packed = bytes((0x00, 0x0F, 0xFF))  # 0 and 4095
    twelve = tiff(np.zeros((1, 2), "u2"), photometric=1, bits=12, data=packed)
    assert np.asarray(open_rgb(twelve))[0, :, 0].tolist() == [0, 255]
    colours = np.arange(256, dtype="u2")
    palette = tiff(GREY, photometric=3, tags={320: (3, *colours, *colours, *colours)})
    np.testing.assert_array_equal(np.asarray(open_rgb(palette))[..., 1], GREY)


def test_lab_is_converted() -> None:
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), (200, 60, 30)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    stream = io.BytesIO()
    lab.save(stream, "TIFF")
    assert np.abs(np.asarray(open_rgb(stream.getvalue())).astype(int) - (200, 60, 30)).max() <= 3  # 8 bits each way


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(np.zeros((2, 2), "f8"), photometric=1), "TIFF layout that is not decoded"),
        (tiff(GREY, photometric=1, tags={262: (3, 1, 0)}), "does not say whether 0 is black or white"),
        (tiff(np.zeros((2, 2, 3), "u4"), photometric=2), "TIFF layout that is not decoded"),
        *(
            (tiff(np.zeros((2, 2, 2), kind), photometric=photometric, planar=True, extra=extra), "TIFF layout that")
            for kind in ("u1", "u2")
            for photometric in (0, 1)
            for extra in ((), (0,), (1,), (2,))
        ),
        (tiff(RGB, photometric=2, tags={50706: (1, 1, 4, 0, 0)}), "camera RAW file, whose first page is a preview"),
        (tiff(RGB, photometric=2, tags={254: (4, 1), 330: (4, 8)}), "camera RAW file, whose first page is a preview"),
    ],
    ids=["f8", "two photometrics", "rgb u4", *["grey and another sample in planes"] * 16, "DNG", "NEF"],
)
def test_other_tiff_is_refused_by_name(content: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_rgb(content)
