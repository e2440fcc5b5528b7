"""JPEG: decode, and refuse a file whose picture is cut off, which libjpeg fills with grey in silence.

libjpeg only warns when a scan's data end before its last block, and Pillow drops its warnings. But given the data
*without* the marker behind it, libjpeg waits for more instead of guessing. So a scan is handed over alone, with a few
bytes of padding for the decoder's read-ahead: a whole scan is then used up, a cut one leaves the decoder waiting.
Nothing is decoded twice. A cut of fewer bytes than the read-ahead can pass: it costs the last two blocks of 8 x 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageFile

from alexnet_deploy.images.codecs.formats import announce, refuse_size
from alexnet_deploy.images.codecs.own.jpeg_layout import Layout, jpeg_layout

JPEG_START = b"\xff\xd8\xff"
_PADDING = b"\xff\x00" * 8
"""Eight bytes of ones, libjpeg's read-ahead. No Huffman code is all ones: a cut scan can spend them on 4 values."""


class Jpeg(NamedTuple):
    """A JPEG's picture as stored, upright or not."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height by its header."""
    scale: int
    """``image`` has ``size`` divided by this; the last column and row may reach beyond the picture."""


def open_jpeg(
    content: bytes, max_pixels: int, min_side_of: Callable[[Image.Image], int | None] = lambda image: None
) -> Jpeg:
    """The picture of a JPEG; any exception if ``content`` is not a whole one.

    ``min_side_of`` gets it before it is decoded, once at most. Its result None means in full, a number at 1/2, 1/4 or
    1/8: the smallest that leaves the shorter side at least so many pixels. TooManyPixelsError, before anything is
    decoded, if it has more than ``max_pixels`` in full.
    """
    layout = jpeg_layout(content)
    image = Image.open(BytesIO(content), formats=("JPEG",))
    size, scale = image.size, 1
    refuse_size(*size, max_pixels)
    # Others are left to libjpeg: its arithmetic decoder cannot wait for data, and lossless files are no photos.
    if layout.kind in (0xC0, 0xC1, 0xC2):
        assert isinstance(image, ImageFile.ImageFile)
        min_side = min_side_of(image)
        if min_side is not None and min(size) >= 2 * min_side:
            image.draft(None, (min_side, min_side))
            (scale, _) = image.decoderconfig
        # Several scans are collected in memory as coefficients of the whole picture, whatever its scale.
        announce(size[0] * size[1] if layout.bits else image.width * image.height)
        _decode(image, content, layout)
    else:
        announce(size[0] * size[1])
    return Jpeg(image, size, scale)


def _decode(image: ImageFile.ImageFile, content: bytes, layout: Layout) -> None:
    [(codec, extents, _, args)] = image.tile
    image.load_prepare()
    decoder = Image._getdecoder(image.mode, codec, args, image.decoderconfig)
    try:
        decoder.setimage(image.im, extents)
        rest = b""
        for piece, must_be_used_up in _pieces(content, layout):
            waiting = rest + piece if rest else piece  # a copy of a whole photo takes time
            used, error = decoder.decode(waiting)
            if used < 0:
                if error < 0:
                    raise ValueError("its data are damaged")
                break
            rest = waiting[used:]
            if rest and must_be_used_up:
                raise ValueError("it is cut off")
        else:
            raise ValueError("it is cut off")
    finally:
        decoder.cleanup()
    image.tile = []


def _pieces(content: bytes, layout: Layout) -> Iterator[tuple[bytes, bool]]:
    """What the decoder gets at a time, and whether it must use it up unless it is done.

    After a scan it may have read ahead to the last byte of the padding by chance. It cannot do so twice: between two
    reads it needs three more values of at least 16 bits each. With several scans, it is done at the end marker only.
    """
    start = 0
    for end in layout.ends:
        yield content[start:end] + _PADDING, True
        if layout.bits:
            yield _PADDING[:2], True
        start = end
    if layout.bits:
        yield content[start : layout.end] + b"\xff\xd9", False
