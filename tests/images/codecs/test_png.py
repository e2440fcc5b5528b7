"""PNG: transparent colours at every depth, and damage beside the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import open_rgb
from tests.helpers.pictures import png, png_chunk

RGB = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
ASIDE = ("bKGD", "cHRM", "eXIf", "gAMA", "hIST", "iCCP", "iTXt", "pHYs", "sBIT", "sPLT", "sRGB", "tEXt", "tIME", "zTXt")


def packed(values: NDArray[np.uint8], depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits."""
    height, width = values.shape
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
        + b"".join(png_chunk(*chunk) for chunk in chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("above", [0, 1, 0xFFFF], ids=["plain", "one bit above", "all bits above"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_is_the_value_as_stored(depth: int, above: int) -> None:
    """The specification has decoders ignore the bits above the depth."""
    values = np.arange(1 << depth, dtype=np.uint8)[None]
    grey = values[0].astype(int) * (255 // ((1 << depth) - 1))
    for key in {0, 1, (1 << depth) - 1}:
        found = np.asarray(open_rgb(packed(values, depth, (b"tRNS", struct.pack(">H", key | above << depth & 0xFFFF)))))
        assert found[0, :, 0].tolist() == np.where(values[0] == key, 255, grey).tolist()
    assert np.asarray(open_rgb(packed(values, depth)))[0, :, 0].tolist() == grey.tolist()


def damaged(kind: bytes, data: bytes) -> bytes:
    """A PNG with a chunk whose checksum is wrong."""
    content = png(RGB, (kind, data))
    at = content.index(kind) + 4 + len(data)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("kind", ASIDE)
def test_damage_beside_the_pixels_is_passed_over(kind: str) -> None:
    np.testing.assert_array_equal(np.asarray(open_rgb(damaged(kind.encode(), b"Title\0text"))), RGB)


def test_damage_beside_the_pixels_keeps_the_orientation_and_large_texts_out() -> None:
    turned = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    large = b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2_000_000))
    content = png(RGB, (b"tEXt", b"Title\0text"), (b"eXIf", turned), large).replace(b"text", b"test")
    np.testing.assert_array_equal(np.asarray(open_rgb(content)), np.rot90(RGB, -1))


@pytest.mark.parametrize("kind", ["tRNS", "uRNS", "pLTE", "iDAT", "QLTE"])
def test_damage_that_may_be_in_the_pixels_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"cannot be decoded .the checksum of its {kind} is wrong"):
        open_rgb(damaged(kind.encode(), b"\0\x01\0\x02\0\x03"))
