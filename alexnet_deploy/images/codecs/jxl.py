"""JPEG XL: the size in the header. The package that decodes it decodes all of it before it tells the size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from alexnet_deploy.images.codecs.parts import MOST_PARTS, refuse_parts

_CODESTREAM = b"\xff\x0a"
_SIZE_BYTES = 12  # the signature and the longest size, of 68 bits
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_BITS = (9, 13, 18, 30)  # of a side, by the selector before it


def jxl_size(stream: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels of a JPEG XL file from its beginning; ValueError if its header does not say them."""
    head = stream.read(_SIZE_BYTES)
    if not head.startswith(_CODESTREAM):
        stream.seek(-len(head), 1)
        head = _start_of_codestream(stream)
    if not head.startswith(_CODESTREAM):
        raise ValueError("it has no JPEG XL codestream")
    bits = _Bits(head[len(_CODESTREAM) :])
    is_small = bool(bits.take(1))
    height = _side(bits, is_small)
    if ratio := _RATIOS.get(bits.take(3)):
        return height * ratio[0] // ratio[1], height
    return _side(bits, is_small), height


def _side(bits: _Bits, is_small: bool) -> int:
    """The next width or height; small ones are multiples of 8, up to 256."""
    return 8 * (1 + bits.take(5)) if is_small else 1 + bits.take(_BITS[bits.take(2)])


def _start_of_codestream(stream: BinaryIO) -> bytes:
    """The first bytes of the codestream in a file of boxes, of which several can have a part of it.

    All boxes are counted, for the package makes an object of each.
    """
    found = b""
    for kind, size in _boxes(stream):
        if kind == b"jxlc" and not found:
            found = stream.read(min(size, _SIZE_BYTES))
        elif kind == b"jxlp" and size >= 4 and len(found) < _SIZE_BYTES:
            stream.seek(4, 1)  # its number
            found += stream.read(min(size - 4, _SIZE_BYTES - len(found)))
    return found


def _boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and size of the content of each box, with the stream at its content."""
    count = 0
    while len(head := stream.read(8)) == 8:
        count += 1
        refuse_parts(count, MOST_PARTS, "boxes")
        size, start = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, start = int.from_bytes(stream.read(8), "big"), 16
        if size == 0:  # up to the end of the file
            size = start + _SIZE_BYTES + 4
        if not start <= size < 1 << 62:
            return
        at = stream.tell()
        yield head[4:], size - start
        stream.seek(at + size - start)


class _Bits:
    """Reads bits from the lowest of each byte on."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "little")
        self._left = 8 * len(content)

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number; ValueError at the end."""
        if count > self._left:
            raise ValueError("it ends within its header")
        found = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return found
