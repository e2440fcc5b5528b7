"""PBM, PGM, PPM and PFM: comments, numbers as text, and values that do not end at 255 or 65535.

For these Pillow goes byte by byte, in Python: 20 MB take a quarter of a minute, or hours if there are many comments.
"""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.parts import MOST_PARTS, UnsupportedFormatError, refuse_parts

_START = re.compile(rb"P[0-6fy]")
_HEADER_BYTES = 1 << 16  # usual ones have under a hundred
_COMMENT = re.compile(rb"#[^\r\n]*")
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([2356])" + _BETWEEN + rb"(\d{1,9})" + _BETWEEN + rb"(\d{1,9})" + _BETWEEN + rb"(\d{1,9})\s")
_RAW = ((5, 255), (6, 255), (5, 65535))  # kinds and largest values that Pillow reads without a loop
_ANY_HEADER = {
    words: re.compile(rb"P[^\s#]{1,7}(?:%b[^\s#]{1,32}){%d}[\s#]" % (_BETWEEN, words - 1)) for words in (3, 4)
}  # a largest value of PFM is no whole number
_NUMBERS = re.compile(rb"[\s\d]*")
_LONG_NUMBER = re.compile(rb"\d{10}")  # beyond 32 bits


def is_ppm(head: bytes) -> bool:
    """Whether a file with these first bytes is one that Pillow reads as PPM."""
    return _START.match(head) is not None


def open_ppm(content: bytes, max_pixels: int) -> Image.Image:
    """The picture, decoded or not; ValueError if it is cut off or its numbers are damaged.

    UnsupportedFormatError if its header does not end within 64 KiB, TooManyPixelsError above ``max_pixels``.
    """
    is_plain = content.startswith((b"P1", b"P2", b"P3"))
    if is_plain and (comments := content.count(b"#")):
        refuse_parts(comments, MOST_PARTS, "comments")
        content = _COMMENT.sub(b"", content)
    words = 3 if content.startswith((b"P1", b"P4")) else 4
    if _ANY_HEADER[words].match(content, 0, _HEADER_BYTES) is None and len(content) > _HEADER_BYTES:
        raise UnsupportedFormatError(f"has no whole header within {_HEADER_BYTES >> 10} KiB; export it again")
    if content.startswith((b"P2", b"P3", b"P5", b"P6")):
        if (header := _HEADER.match(content)) is None:
            raise ValueError("its header is damaged")
        kind, *numbers = (int(number) for number in header.groups())
        width, height, white = numbers
        if is_plain or (kind, white) not in _RAW:
            require_size(width, height, max_pixels)
            shape = (height, width, 3) if kind in (3, 6) else (height, width)
            return _scaled(content, header.end(), shape, white, is_plain=is_plain)
    return Image.open(BytesIO(content), formats=("PPM",))


def _scaled(content: bytes, start: int, shape: tuple[int, ...], white: int, *, is_plain: bool) -> Image.Image:
    """The picture of 8 bits, or grey of 16 bits if ``white`` is above 255; ``white`` becomes the largest value."""
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0 or not 0 < white < 1 << 16:
        raise ValueError("it has no pixels, or no largest value")
    if is_plain:
        values = _numbers(content, start)[:count]
    else:
        kind = np.dtype(np.uint8 if white < 256 else ">u2")
        values = np.frombuffer(content, kind, min(count, (len(content) - start) // kind.itemsize), start)
    if values.size < count:
        raise ValueError("it is cut off")
    if is_plain and values.max() > white:
        raise ValueError("one of its numbers is too large")
    is_wide = white > 255 and len(shape) == 2
    top = 65535 if is_wide else 255
    table = np.minimum(np.rint(np.arange(1 << 16) / white * top), top).astype(np.int32 if is_wide else np.uint8)
    return Image.fromarray(table[values].reshape(shape))


def _numbers(content: bytes, start: int) -> NDArray[np.int32]:
    """The numbers from ``start`` up to something else; numpy would go on with what lies in memory."""
    found = _NUMBERS.match(content, start)
    text = found[0] if found else b""
    if not text or text.isspace():
        return np.empty(0, np.int32)
    if _LONG_NUMBER.search(text):
        raise ValueError("one of its numbers is too long")
    return np.fromstring(text, np.int32, sep=" ")
