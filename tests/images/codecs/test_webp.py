"""Sizes of WebP files by their headers; what is too large is refused before libwebp is asked for memory."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.checked.webp import HEADER_BYTES, webp_size
from alexnet_deploy.images.decode import open_rgb

EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0"
SIDES = st.one_of(st.integers(1, 300), st.sampled_from([255, 256, 4095, 8193, 16383]))


def encoded(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, (10, 60, 200, 120)[: len(mode)]).save(stream, "WEBP", method=0, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        (b"VP8 ", "RGB", {}),
        (b"VP8L", "RGB", {"lossless": True}),
        (b"VP8L", "RGBA", {"lossless": True}),
        (b"VP8X", "RGBA", {}),
        (b"VP8X", "RGB", {"exif": EXIF}),
    ],
)
@given(SIDES, st.integers(1, 60))
def test_the_size_is_that_of_the_encoder(
    kind: bytes, mode: str, options: dict[str, object], long: int, short: int
) -> None:
    for size in ((long, short), (short, long)):
        content = encoded(size, mode, **options)
        assert (content[12:16], webp_size(content)) == (kind, size)


def test_the_scale_beside_the_size_is_ignored() -> None:
    """RFC 6386, section 9.1: two bits say how far to scale it up afterwards, which no decoder does."""
    content = bytearray(encoded((60, 40)))
    expected = open_rgb(bytes(content)).tobytes()
    content[27] |= 0xC0
    content[29] |= 0xC0
    assert webp_size(bytes(content)) == (60, 40)
    assert open_rgb(bytes(content)).tobytes() == expected


def test_the_size_of_an_animation_is_that_of_its_canvas() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    assert webp_size(stream.getvalue()) == (40, 30)


@given(
    st.binary(max_size=40), st.sampled_from([b"", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF....WEBPVP8L"])
)
def test_any_bytes_have_a_size_or_none(content: bytes, start: bytes) -> None:
    size = webp_size(start + content)
    assert size is None or all(0 <= side <= 1 << 24 for side in size)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": EXIF}])
def test_what_is_too_large_is_refused_by_its_header(options: dict[str, object]) -> None:
    """Nothing but the header is there: the size was not taken from what libwebp decoded."""
    with pytest.raises(InputError, match="has 3000 x 2000 pixels, above the limit of 1000000; scale it down"):
        open_rgb(encoded((3000, 2000), **options)[:HEADER_BYTES], max_pixels=1_000_000)


def test_a_frame_larger_than_its_canvas_is_refused() -> None:
    """Else a header of 16 x 16 would let 24 million bytes through."""
    content = bytearray(encoded((3000, 2000), exif=EXIF))
    content[24:30] = b"\x0f\0\0\x0f\0\0"
    assert webp_size(bytes(content)) == (16, 16)
    with pytest.raises(InputError, match="could not create decoder object"):
        open_rgb(bytes(content))
