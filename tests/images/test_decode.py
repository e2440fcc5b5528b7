"""Image files of every kind become the same upright RGB pixels, or one line with the file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images import decode
from alexnet_deploy.images.decode import load_pixels, open_rgb
from tests.helpers.pictures import noise

SMALL = Preprocessing(height=28, width=28, resize_to=32)
ORIENTATION = 0x0112

# rows: what the EXIF specification says about row 0 and column 0 of the stored picture, as numpy on the upright one
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


def encoded(image: Image.Image, codec: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, codec, **options)
    return stream.getvalue()


def rgb_of(image: Image.Image, codec: str, **options: object) -> NDArray[np.uint8]:
    opened = open_rgb(encoded(image, codec, **options))
    assert opened.mode == "RGB"
    return np.asarray(opened)


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">II4s", zlib.crc32(header), 9, b"IDAT")


@pytest.mark.parametrize("codec", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_comes_out_upright(orientation: int, codec: str) -> None:
    upright = noise(4, 6)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True, "exact": True} if codec == "WEBP" else {}
    np.testing.assert_array_equal(rgb_of(stored, codec, exif=exif, **options), upright)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif_costs_the_orientation_only(exif: bytes) -> None:
    opened = open_rgb(encoded(Image.new("RGB", (9, 5)), "JPEG", exif=exif))
    assert opened.size == (9, 5)


MODES_OF = {
    "PNG": ("L", "LA", "P", "RGBA"),
    "TIFF": ("L", "RGBA", "CMYK", "YCbCr"),
    "JPEG": ("L", "RGB", "CMYK"),
    **dict.fromkeys(("PPM", "GIF"), ("L",)),
    **dict.fromkeys(("BMP", "WEBP", "JPEG2000", "AVIF"), ("RGB",)),
}
GREY_KINDS = [(mode, codec) for codec, modes in MODES_OF.items() for mode in modes]


@given(kind=st.sampled_from(GREY_KINDS), value=st.integers(0, 255), width=st.integers(1, 40), height=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_a_grey_picture_is_that_grey_in_every_mode_and_format(
    kind: tuple[str, str], value: int, width: int, height: int
) -> None:
    mode, codec = kind
    pixels = rgb_of(Image.new("L", (width, height), value).convert(mode), codec)
    assert pixels.shape == (height, width, 3)
    # lossy codecs and the YCbCr integer matrices are off by a few of 255; lossless ones are exact
    tolerance = 0 if codec in ("PNG", "BMP", "PPM", "GIF") or (codec == "TIFF" and mode != "YCbCr") else 3
    assert np.abs(pixels.astype(int) - value).max() <= tolerance


def test_bilevel_is_black_and_white() -> None:
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert rgb_of(picture, "PNG")[..., 0].tolist() == [[0, 255], [255, 0]]


def test_adobe_cmyk_jpeg_is_not_inverted() -> None:
    pixels = rgb_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4  # lossy


@pytest.mark.parametrize("codec", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(codec: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = rgb_of(Image.fromarray(grey.astype(np.uint16) * 257), codec)
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535, 257]], np.int32), [0, 255, 1]),
        (np.array([[-100, 100, -20]], np.int32), [0, 255, 102]),
        (np.array([[0, 2_000_000, 400_000]], np.int32), [0, 255, 51]),
        (np.array([[0.0, 1.0, 0.2]], np.float32), [0, 255, 51]),
        (np.array([[-3e38, 3e38, -1.8e38]], np.float32), [0, 255, 51]),
        (np.array([[7.0, 7.0, 7.0]], np.float32), [0, 0, 0]),
    ],
)
def test_wide_grey_keeps_its_own_scale_or_is_stretched(values: NDArray[np.generic], expected: list[int]) -> None:
    assert rgb_of(Image.fromarray(values), "TIFF")[0, :, 0].tolist() == expected


def test_wide_grey_is_scaled_alike_across_strips() -> None:
    values = np.linspace(-50, 50, 300 * 300, dtype=np.float32).reshape(300, 300)  # more than one strip
    expected = np.rint((values.astype(np.float64) + 50) * 2.55)
    np.testing.assert_array_equal(rgb_of(Image.fromarray(values), "TIFF")[..., 0], expected)


def test_grey_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        open_rgb(encoded(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF"))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    over_white = [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    assert rgb_of(Image.fromarray(rgba), "PNG")[0].tolist() == over_white


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one index", "alpha a palette entry"])
def test_transparent_palette_entries_are_white(transparency: int | bytes) -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    assert rgb_of(picture, "PNG", transparency=transparency)[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_colour_without_alpha_channel_is_white(mode: str) -> None:
    black = (0, 0, 0) if mode == "RGB" else 0
    assert (rgb_of(Image.new(mode, (2, 2)), "PNG", transparency=black) == 255).all()


@pytest.mark.parametrize("codec", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_of_many_is_taken(codec: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    pixels = rgb_of(frames[0], codec, save_all=True, append_images=frames[1:])
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4  # WebP is lossy


WHOLE = encoded(Image.fromarray(noise(64, 64)), "JPEG")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.jpg", WHOLE[: len(WHOLE) // 2], "cannot be decoded"),
        ("empty.jpg", b"", "is empty (0 bytes); get a whole copy"),
        ("empty.NEF", b"", "is empty"),
        ("text.jpg", b"<html>404</html>", "not an image"),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("bomb.png", png_claiming(30_000, 30_000), "30000 x 30000 pixels, above the limit of 178956970"),
        ("two\nlines.png", WHOLE[:400], "two lines.png"),
        ("missing.jpg", None, "no such file"),
        (".", None, "is a folder"),
    ],
)
def test_what_is_no_whole_image_is_one_line_that_names_it(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_rgb(path)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(str(path).replace("\n", " ") + ": ")
    assert len(message.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("RGB", (2, 2)), "PNG"))
    path.chmod(0)
    with pytest.raises(InputError, match=r"secret\.png: cannot be read \(permission denied\)"):
        open_rgb(path)


def test_bytes_and_streams_are_named_by_the_caller() -> None:
    assert open_rgb(io.BytesIO(encoded(Image.new("L", (3, 2)), "PNG"))).size == (3, 2)
    with pytest.raises(InputError, match=r"^upload 7: is not an image"):
        open_rgb(b"nothing", name="upload 7")


def test_the_pixel_limit_holds_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    with pytest.raises(InputError, match="pixels"):
        open_rgb(encoded(Image.new("L", (10, 10)), "PNG"))


def test_pillow_warnings_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)  # a hundred pixels make Pillow warn, twice as many refuse
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(encoded(Image.new("L", (10, 10)), "PNG")))
    assert open_rgb(encoded(Image.new("L", (10, 10)), "PNG")).size == (10, 10)


@given(
    seed=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.integers(1, 2000),
)
@settings(max_examples=200, deadline=None)
def test_any_damage_is_an_image_or_an_input_error(seed: str, edits: list[tuple[int, int]], keep: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = bytearray(
        encoded(Image.fromarray(noise(12, 12)), seed, **({} if seed in ("BMP", "PPM") else {"exif": exif}))
    )
    for position, value in edits:
        content[position % len(content)] = value
    try:
        opened = open_rgb(bytes(content[:keep]))
    except InputError as exc:
        message = str(exc)
    else:
        message = opened.mode
    assert message == "RGB" or (message.startswith("image: ") and len(message.splitlines()) == 1)


def test_pixels_belong_to_the_caller_and_fit_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(noise(40, 50)), "PNG"))
    pixels = load_pixels(path, SMALL)
    assert pixels.shape == (28, 28, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    batch = np.zeros((2, 28, 28, 3), np.uint8)
    assert load_pixels(path, SMALL, batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], pixels)
    assert not batch[0].any()
