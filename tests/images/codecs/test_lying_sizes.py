"""Files whose header says less than is decoded: refused before memory is taken, whatever their format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, TiffImagePlugin

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.formats import before_decoding
from alexnet_deploy.images.decode import open_rgb

SIDE = 2000
LIMIT = 1_000_000


def saved(kind: str, side: int = SIDE, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "navy").save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(side: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))


def second_header() -> bytes:
    png = saved("PNG")
    return png[:8] + header(1) + png[8:]


def text_first() -> bytes:
    """Its text stands where the size stands in others."""
    png = saved("PNG")
    return png[:8] + chunk(b"tEXt", struct.pack(">II", 1, 1) + b"\0x") + png[8:]


def icon(picture: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def icon_of_bmp() -> bytes:
    return icon(struct.pack("<IiiHHIIiiII", 40, SIDE, 2 * SIDE, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(4 * SIDE * SIDE))


def icon_of_old_bmp() -> bytes:
    return icon(struct.pack("<IHHHH", 12, SIDE, 2 * SIDE, 1, 24) + bytes(4 * SIDE * SIDE))


def large_tile() -> bytes:
    """A page of 16 x 16 pixels, in a tile of ``SIDE``."""
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    tile = zlib.compress(bytes(3 * SIDE * SIDE))
    for tag, value in ((256, 16), (257, 16), (258, (8, 8, 8)), (259, 8), (262, 2), (277, 3), (322, SIDE), (323, SIDE)):
        entries[tag] = value
    entries[324], entries[325] = 4096, len(tile)
    stream = io.BytesIO()
    entries.save(stream)
    return stream.getvalue().ljust(4096, b"\0") + tile


def jpeg2000_in_a_small_box() -> bytes:
    content = saved("JPEG2000")
    at = content.index(b"ihdr") + 4
    return content[:at] + struct.pack(">II", 16, 16) + content[at + 8 :]


LYING: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG with a second header": (second_header, "it has several headers"),
    "PNG that begins with text": (text_first, "it does not begin with its header"),
    "icon of a PNG": (lambda: icon(saved("PNG")), "has 2000 x 2000 pixels, above the limit of 1000000"),
    "icon of a PNG with a second header": (lambda: icon(second_header()), "it has several headers"),
    "icon of a PNG that begins with text": (lambda: icon(text_first()), "it does not begin with its header"),
    "icon of a BMP": (icon_of_bmp, "has 2000 x 2000 pixels, above the limit of 1000000"),
    "icon of an old BMP": (icon_of_old_bmp, "has 2000 x 2000 pixels, above the limit of 1000000"),
    "tiled TIFF": (large_tile, "has 2000 x 2000 pixels, above the limit of 1000000"),
    "JPEG 2000 whose box says less": (jpeg2000_in_a_small_box, "has 2000 x 2000 pixels, above the limit of 1000000"),
}


@pytest.mark.parametrize("name", LYING)
def test_it_is_refused_before_its_pixels_are_decoded(name: str) -> None:
    make, reason = LYING[name]
    announced: list[int] = []
    with pytest.raises(InputError, match=reason), before_decoding(announced.append):
        open_rgb(make(), max_pixels=LIMIT)
    assert all(pixels <= LIMIT for pixels in announced)


@pytest.mark.parametrize("name", ["icon of a PNG", "tiled TIFF"])
def test_within_the_limit_what_is_decoded_is_announced(name: str) -> None:
    make, _ = LYING[name]
    announced: list[int] = []
    with before_decoding(announced.append):
        open_rgb(make())
    assert max(announced) == SIDE * SIDE


@pytest.mark.parametrize("options", [{}, {"sizes": [(16, 16), (48, 48)]}, {"bitmap_format": "bmp"}])
def test_icons_are_read_as_before(options: dict[str, object]) -> None:
    image = open_rgb(saved("ICO", 64, **options))
    assert image.getpixel((5, 5)) == (0, 0, 128)
