"""JPEG 2000: what its headers announce, before OpenJPEG takes memory for it.

OpenJPEG keeps records of each code block, precinct and tile. Usual files have code blocks of 64 x 64 or 32 x 32, so
that the records weigh less than the pixels; with blocks of 4 x 4 they weigh a hundred bytes per pixel.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.parts import MOST_PARTS, UnsupportedFormatError, most_parts, refuse_parts

_CODESTREAM = b"\xff\x4f\xff\x51"
JPEG2000_STARTS = (_CODESTREAM, b"\0\0\0\x0cjP  \r\n\x87\n")
_SUPERBOXES = (b"jp2h", b"res ")  # those whose boxes Pillow reads
_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_MARKERS = frozenset(
    (0xFF50, _SIZ, _COD, _COC, 0xFF55, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63,
     0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78)
)  # fmt: skip
"""Of segments with a length, as ISO 15444-1, -2 and -15 have them in headers."""
_TILE_BYTES, _PRECINCT_BYTES, _BLOCK_BYTES = 12_500, 300, 500  # at most, measured with OpenJPEG 2.5
_LAYER_BYTES, _ENDED_BYTES = 32, 3000  # of a block: per layer, and if each of its passes can end for itself
_ENDED = 0x05  # bits of the style for this
_PER_PIXEL, _FREE = 12, 16 << 20  # bytes of records beside the pixels
_TOO_SMALL = "has unusually small code blocks, precincts or tiles; export it again with others"
_MOST_COMPONENTS = 4  # Pillow has no mode for more
_MOST_LAYERS = 100  # archives use up to 50
_SMALLEST_TILE_PART = 256  # bytes, on average


@dataclass(frozen=True, slots=True)
class _Frame:
    """Width and height of the picture and of a tile, and the number of tiles."""

    width: int
    height: int
    tile: tuple[int, int]
    tiles: int
    components: int


def open_jpeg2000(content: bytes, max_pixels: int) -> Image.Image:
    """The picture, not yet decoded; UnsupportedFormatError if it would need far more memory than its pixels do.

    TooManyPixelsError if the codestream has more than ``max_pixels``, whatever the boxes around it say.
    """
    start = _codestream(content)
    segments = _segments(content, start)
    kind, body = next(segments, (0, b""))
    if kind != _SIZ or len(body) < 36:
        raise ValueError("it does not begin with its size")
    frame = _frame(body)
    require_size(frame.width, frame.height, max_pixels)
    refuse_parts(frame.components, _MOST_COMPONENTS, "channels")
    allowed, layers = _FREE + _PER_PIXEL * frame.width * frame.height - frame.tiles * _TILE_BYTES, 1
    if allowed < 0:
        raise UnsupportedFormatError(_TOO_SMALL)
    for kind, body in segments:
        if kind == _COD:  # flags, order, layers in two bytes, transform between components, and the style
            layers = int.from_bytes(body[2:4], "big")
            refuse_parts(layers, _MOST_LAYERS, "layers")
            style, has_precincts = body[5:], body[0] & 1
        elif kind == _COC:  # component, flags, and the style
            style, has_precincts = body[2:], body[1] & 1
        else:
            continue
        if _record_bytes(frame, style, bool(has_precincts), layers) > allowed:
            raise UnsupportedFormatError(_TOO_SMALL)
    return Image.open(BytesIO(content), formats=("JPEG2000",))


def _frame(body: bytes) -> _Frame:
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, components = struct.unpack_from(">8IH", body, 2)
    width, height = x1 - x0, y1 - y0
    if width <= 0 or height <= 0 or tile_width == 0 or tile_height == 0:
        raise ValueError("it has no pixels")
    tiles = -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height)
    return _Frame(width, height, (min(tile_width, width), min(tile_height, height)), tiles, components)


def _record_bytes(frame: _Frame, style: bytes, has_precincts: bool, layers: int) -> int:
    """What OpenJPEG allocates at most for the records of a tile whose components are all coded in ``style``."""
    levels, exponents = style[0], (style[1] + 2, style[2] + 2)  # of two: width and height of a code block
    if levels > 32 or max(exponents) > 10:
        raise ValueError("its code blocks are damaged")
    block_bytes = _BLOCK_BYTES + _LAYER_BYTES * layers + (_ENDED_BYTES if style[3] & _ENDED else 0)
    most_precincts = records = 0
    for resolution in range(levels + 1):
        sides = [max(1, -(-side >> levels - resolution)) for side in frame.tile]
        size = style[5 + resolution] if has_precincts else 0xFF
        areas = (size & 15, size >> 4)
        bands = 3 if resolution else 1
        blocks = bands * math.prod(
            -(-side // (2 << min(exponent, max(area - 1, 0))) if resolution else -(-side // (1 << min(exponent, area))))
            for side, exponent, area in zip(sides, exponents, areas, strict=True)
        )
        precincts = math.prod(-(-side // (1 << area)) for side, area in zip(sides, areas, strict=True))
        most_precincts = max(most_precincts, precincts)
        records += blocks * block_bytes + precincts * bands * _PRECINCT_BYTES
    included = 2 * (layers + 1) * most_precincts * (levels + 1)  # which packets have been read
    return (records + included) * frame.components


def _codestream(content: bytes) -> int:
    """Where the codestream begins; ValueError if there is none."""
    if content.startswith(_CODESTREAM):
        return 0
    boxes = _boxes(content, 0, len(content))
    for count, (kind, start, _) in enumerate(boxes):
        refuse_parts(count, MOST_PARTS, "boxes")
        if kind == b"jp2c":
            return start
    raise ValueError("it has no codestream")


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box, where its content begins and where it ends; those inside come after their superbox."""
    while at + 8 <= end:
        size, kind, start = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(content[start : start + 8], "big"), start + 8
        stop = at + size if size else end
        if stop < start:
            raise ValueError("its boxes are damaged")
        yield kind, start, min(stop, end)
        if kind in _SUPERBOXES:
            yield from _boxes(content, start, min(stop, end))
        at = stop


def _segments(content: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment in the main header, and in the headers of all parts of tiles."""
    at, next_part = start + 2, 0
    most = most_parts(len(content), _SMALLEST_TILE_PART)
    for count in itertools.count():
        refuse_parts(count, most, "segments")
        marker = int.from_bytes(content[at : at + 2], "big")
        if marker == _SOD:
            if next_part and next_part < at:
                raise ValueError("the length of a part of a tile is damaged")
            at = next_part
            if at == 0 or content[at : at + 2] != b"\xff\x90":
                return
            continue
        if marker < 0xFF00:
            raise ValueError("it is cut off or damaged")
        if marker != _SOT and marker not in _MARKERS:  # OpenJPEG would look for the next one inside of it
            raise UnsupportedFormatError(f"has a segment {marker:04X}, which is not decoded; export it again")
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(content):
            raise ValueError("it is cut off")
        body = content[at + 4 : at + 2 + length]
        if marker == _SOT:
            tile_part = int.from_bytes(body[2:6], "big")
            next_part = at + tile_part if tile_part >= 12 else 0  # the last one may leave it out
        else:
            yield marker, body
        at += 2 + length
