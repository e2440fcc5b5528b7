"""Sizes of JPEG XL files by their headers; and what is too large is refused before anything of it is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.jxl import jxl_size
from alexnet_deploy.images.decode import open_rgb

SIDES = st.one_of(st.integers(1, 300), st.sampled_from([8, 256, 512, 513, 1200, 1920, 8193, 9000]))


def encoded(size: tuple[int, int], codec: str, **options: object) -> bytes:
    if codec == "JXL":
        pytest.importorskip("pillow_jxl", reason="pillow_jxl is not installed: extra `formats`")
        options |= {"effort": 1}
    if codec == "HEIF":
        pytest.importorskip(
            "pillow_heif", reason="pillow_heif is not installed: extra `formats`"
        ).register_heif_opener()
    stream = io.BytesIO()
    Image.new("RGB", size, (10, 60, 200)).save(stream, codec, **options)
    return stream.getvalue()


@given(SIDES, st.one_of(st.just(16), st.integers(1, 300)))
@settings(max_examples=25)
def test_the_size_is_that_of_the_decoder(long: int, short: int) -> None:
    for size in ((long, short), (short, long)):
        for options in ({}, {"use_container": True, "exif": b"Exif\0\0II*\0" + bytes(9000)}):
            assert jxl_size(io.BytesIO(encoded(size, "JXL", **options))) == size


@pytest.mark.parametrize(("width", "height"), [(16, 9), (160, 90), (1600, 900), (1200, 1000), (500, 400), (200, 100)])
def test_a_width_by_its_ratio(width: int, height: int) -> None:
    assert jxl_size(io.BytesIO(encoded((width, height), "JXL"))) == (width, height)


def test_a_codestream_in_parts() -> None:
    """In boxes of JPEG XL's container, as encoders write that do not know the whole: one byte each here."""
    codestream = encoded((2000, 70), "JXL")
    start = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    parts = [
        (13).to_bytes(4, "big") + b"jxlp" + number.to_bytes(4, "big") + codestream[number : number + 1]
        for number in range(20)
    ]
    assert jxl_size(io.BytesIO(start + b"".join(parts))) == (2000, 70)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\1jxlc"]))
def test_any_bytes_are_a_size_or_an_error(content: bytes, start: bytes) -> None:
    try:
        width, height = jxl_size(io.BytesIO(start + content))
    except ValueError:
        return
    assert width >= 0
    assert height >= 1


@pytest.mark.parametrize(
    "codec", ["JXL", "HEIF", "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"]
)
def test_every_format_is_refused_by_its_header(codec: str) -> None:
    """Cut off behind the header where the format permits: what would be decoded would be another error."""
    content = encoded((300, 200), codec)
    assert open_rgb(content, max_pixels=60_000).size == (300, 200)
    with pytest.raises(InputError, match=r"^a: has 300 x 200 pixels, above the limit of 59999; scale it down first$"):
        open_rgb(content, name="a", max_pixels=59_999)
    if codec in ("JXL", "JPEG", "PNG", "BMP", "PPM"):
        with pytest.raises(InputError, match="above the limit of 59999"):
            open_rgb(content[: len(content) * 3 // 4], max_pixels=59_999)


TURNED = bytes.fromhex(
    "ff0ac72d10030800010090004b2825d6615150100035e63f06e5056200382412caf12fb3eeef0708f7cf0bb29aa77e0f"
)
"""64 x 32, white with a red square of 16 at the upper left and a blue one at the lower right, encoded losslessly by
pillow-jxl; then the bits ``1 101 000`` (LSB first) took the place of extra_fields in its ImageMetadata, which makes its
orientation 6: a decoder turns it clockwise (ISO/IEC 18181-1, D.3)."""


def test_a_box_up_to_the_end_of_the_file() -> None:
    """Its size is 0, as encoders write that do not know the whole."""
    start = b"\0\0\0\x0cJXL \r\n\x87\n"
    assert jxl_size(io.BytesIO(start + b"\0\0\0\0jxlc" + TURNED)) == (64, 32)
    assert jxl_size(io.BytesIO(start + b"\0\0\0\0jxlp" + bytes(4) + TURNED)) == (64, 32)


def test_a_part_too_short_for_its_number_is_passed_over() -> None:
    """Else what follows, whatever it is, would be taken for the codestream."""
    start, short = b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0ajxlp\0\0"
    part = (12 + len(TURNED)).to_bytes(4, "big") + b"jxlp" + bytes(4) + TURNED
    assert jxl_size(io.BytesIO(start + short + part)) == (64, 32)


def test_only_the_orientation_of_the_codestream_counts() -> None:
    pytest.importorskip("pillow_jxl", reason="pillow_jxl is not installed: extra `formats`")

    def box(kind: bytes, content: bytes) -> bytes:
        return (len(content) + 8).to_bytes(4, "big") + kind + content

    stored = Image.new("RGB", (64, 32), "white")
    stored.paste("red", (0, 0, 16, 16))
    stored.paste("blue", (48, 16, 64, 32))
    upright = stored.transpose(Image.Transpose.ROTATE_270).tobytes()
    start = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    for orientation in (None, 1, 3, 6):  # a right encoder writes 6 into both
        exif = Image.Exif()
        exif[0x0112] = orientation or 0
        written = b"" if orientation is None else box(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"))
        found = open_rgb(start + written + box(b"jxlc", TURNED))
        assert (found.size, found.tobytes()) == ((32, 64), upright), orientation
    for half in (TURNED[: len(TURNED) // 2], start + box(b"jxlc", TURNED)[: len(TURNED) // 2]):
        with pytest.raises(InputError):
            open_rgb(half)


def test_a_jpeg_within_is_turned_by_its_exif(tmp_path: Path) -> None:
    """As the JPEG itself is: it is decoded from its own bytes, which libjxl gives back."""
    pytest.importorskip("pillow_jxl", reason="pillow_jxl is not installed: extra `formats`")
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg, within = tmp_path / "photo.jpg", io.BytesIO()
    Image.linear_gradient("L").resize((64, 32)).save(jpeg, "JPEG", exif=exif)
    Image.open(jpeg).save(within, "JXL", lossless_jpeg=True)
    assert open_rgb(within.getvalue()).tobytes() == open_rgb(jpeg).tobytes()
    assert open_rgb(within.getvalue()).size == (32, 64)
