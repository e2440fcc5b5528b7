"""BMP in runs of equal pixels (RLE8, RLE4): unpacked to a plain BMP, as Pillow's own loop takes a step per pixel.

So a file of a kilobyte would keep a core busy for as long as it says that it has pixels.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.parts import refuse_parts

_FILE_HEADER = 14  # bytes before the header of the picture, which a DIB lacks
_HEADERS = (40, 52, 56, 64, 108, 124)
_BITS = {1: 8, 2: 4}
"""Bits of a pixel, by the kind of compression."""
_COLOURS = 256
_MOST_RUNS = 2_000_000  # a second or two of the loop below; a picture with more, of noise, gains nothing by its runs


def has_runs(head: bytes) -> bool:
    """Whether the first bytes of a file, 34 or more, begin such a BMP or DIB."""
    at = _start(head)
    size, kind = (int.from_bytes(head[at + i : at + i + 4], "little") for i in (0, 16))
    return size in _HEADERS and kind in _BITS


def open_runs(content: bytes, max_pixels: int) -> Image.Image:
    """The image, as Pillow opens its plain form; ValueError if it is cut off or not of this kind.

    What no run covers has the first colour of the palette.
    """
    at = _start(content)
    header = bytearray(_take(memoryview(content), at, int.from_bytes(content[at : at + 4], "little")))
    width, height, _, bits, kind = struct.unpack_from("<iiHHI", header, 4)
    if width <= 0 or height == 0 or bits != _BITS[kind]:
        raise ValueError("its header is damaged")
    require_size(width, abs(height), max_pixels)
    used = int.from_bytes(header[32:36], "little") or 1 << bits
    palette = content[at + len(header) : at + len(header) + 4 * min(used, _COLOURS)]
    offset = int.from_bytes(content[10:14], "little") if at else 0
    if offset in (0, at + len(header)):  # as some programs write it, without the palette
        offset = at + len(header) + 4 * used
    pixels = _unpacked(memoryview(content)[offset:], width, abs(height), bits)
    struct.pack_into("<HII", header, 14, 8, 0, len(pixels))
    struct.pack_into("<I", header, 32, _COLOURS)
    start = _FILE_HEADER + len(header) + 4 * _COLOURS
    plain = struct.pack("<2sIII", b"BM", start + len(pixels), 0, start)
    return Image.open(io.BytesIO(plain + header + palette.ljust(4 * _COLOURS, b"\0") + pixels), formats=("BMP",))


def _start(content: bytes) -> int:
    return _FILE_HEADER if content.startswith(b"BM") else 0


def _unpacked(data: memoryview, width: int, height: int, bits: int) -> bytearray:
    """The runs as rows of one byte per pixel, each filled up to four bytes, in the order of the file."""
    stride = (width + 3) // 4 * 4
    rows, runs, at, x, y = bytearray(stride * height), 0, 0, 0, 0
    while y < height and (x, y) != (width, height - 1):
        count, value = _take(data, at, 2)
        runs, at = runs + 1, at + 2
        refuse_parts(runs, _MOST_RUNS, "runs of pixels")
        if count:
            count = min(count, width - x)  # what does not fit into the row is left out
            run = _pixels(data[at - 1 : at], bits) * count
        elif value == 0:  # end of the row
            x, y = 0, y + 1
            continue
        elif value == 1:  # end of the picture
            break
        elif value == 2:  # a step to the right and up
            right, up = _take(data, at, 2)
            x, y, at = min(x + right, width), y + up, at + 2
            continue
        else:  # so many pixels as they are, in an even number of bytes
            size, count = (value * bits + 7) // 8, min(value, width - x)
            run = _pixels(_take(data, at, size)[: (count * bits + 7) // 8], bits)
            at += size + size % 2
        rows[y * stride + x : y * stride + x + count] = run[:count]
        x += count
    return rows


def _take(data: memoryview, at: int, size: int) -> memoryview:
    taken = data[at : at + size]
    if len(taken) < size:
        raise ValueError("it is cut off")
    return taken


def _pixels(data: memoryview, bits: int) -> bytes:
    """One byte per pixel; of four bits, the upper half of a byte comes first."""
    return bytes(data) if bits == 8 else bytes(half for byte in data for half in (byte >> 4, byte & 15))
