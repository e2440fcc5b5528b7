"""JPEG: decode, and refuse a file whose picture is cut off, which libjpeg fills with grey in silence.

libjpeg only warns when a scan's data end before its last block, and Pillow drops its warnings. But given the data
*without* the marker behind it, libjpeg waits for more instead of guessing. So a scan is handed over alone, with a few
bytes of padding for the decoder's read-ahead: a whole scan is then used up, a cut one leaves the decoder waiting.
Nothing is decoded twice. A cut of fewer bytes than the read-ahead can pass: it costs the last two blocks of 8 x 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from alexnet_deploy.images.codecs.formats import announce, refuse_size

_IS_MARKER = np.array([0 < second < 0xFF for second in range(256)])
"""Second bytes of markers; 0 stands for a stuffed 0xFF in the data of a scan."""
_ENDS_INTERVALS = _IS_MARKER & ~np.isin(np.arange(256), range(0xD0, 0xD8))
"""The same without restart markers, which belong to a scan that is divided into intervals."""
_WINDOW = 1 << 16  # bytes searched at a time: what follows the picture can be a video
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_PADDING = b"\xff\x00" * 8
"""Eight bytes of ones, libjpeg's read-ahead. No Huffman code is all ones: a cut scan can spend them on 4 values."""
_MAX_SCANS = 100  # ten are usual; each costs a pass over the picture, and a hostile file can have thousands


@dataclass(slots=True)
class _Layout:
    """Where the parts of a JPEG are. ``kind`` is the second byte of the frame's marker, 0 if there is no frame."""

    kind: int = 0
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each component: across, down
    ends: list[int] = field(default_factory=list)  # of the data of each scan
    end: int = 0  # of the image: behind its end marker
    bits: dict[tuple[int, int], int] = field(default_factory=dict)  # lowest bit of (component, coefficient) so far

    @property
    def is_progressive(self) -> bool:
        return self.kind == 0xC2


class Jpeg(NamedTuple):
    """A JPEG's picture as stored, upright or not."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height by its header."""
    scale: int
    """``image`` has ``size`` divided by this; the last column and row may reach beyond the picture."""


def open_jpeg(content: bytes, max_pixels: int, min_side: int | None = None) -> Jpeg:
    """The picture of a JPEG; any exception if ``content`` is not a whole one.

    It is decoded in full, or with ``min_side`` at 1/2, 1/4 or 1/8: the smallest that leaves the shorter side at least
    ``min_side`` pixels. TooManyPixelsError, before anything is decoded, if it has more than ``max_pixels`` in full.
    """
    image = Image.open(BytesIO(content), formats=("JPEG",))
    size, scale = image.size, 1
    refuse_size(*size, max_pixels)
    layout = _layout(content)
    # Others are left to libjpeg: its arithmetic decoder cannot wait for data, and lossless files are no photos.
    if layout.kind in (0xC0, 0xC1, 0xC2) and layout.ends:
        assert isinstance(image, ImageFile.ImageFile)
        if min_side is not None and min(size) >= 2 * min_side:
            image.draft(None, (min_side, min_side))
            (scale, _) = image.decoderconfig
        # Several scans are collected in memory as coefficients of the whole picture, whatever its scale.
        announce(size[0] * size[1] if layout.bits else image.width * image.height)
        _decode(image, content, layout)
    else:
        announce(size[0] * size[1])
    return Jpeg(image, size, scale)


def _next_marker(content: bytes, at: int, kinds: NDArray[np.bool_] = _IS_MARKER) -> int:
    """Where the next marker of ``kinds`` begins; the length of ``content`` if there is none."""
    if content[at : at + 1] == b"\xff" and at + 1 < len(content) and kinds[content[at + 1]]:
        return at
    for start in range(at, len(content) - 1, _WINDOW):
        view = np.frombuffer(content, np.uint8, min(_WINDOW + 1, len(content) - start), start)
        found = np.flatnonzero(view[:-1] == 0xFF)
        found = found[kinds[view[found + 1]]]
        if found.size:
            return start + int(found[0])
    return len(content)


def _layout(content: bytes) -> _Layout:
    """The parts of the image; ValueError for one that lacks data which its headers promise."""
    layout, interval = _Layout(end=len(content)), 0
    at = 2
    while (at := _next_marker(content, at)) < len(content):
        kind, at = content[at + 1], at + 2
        if kind == 0xD9:
            layout.end = at
            break
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        segment, at = content[at + 2 : at + length], at + length
        if kind == 0xDD:
            interval = int.from_bytes(segment[:2], "big")
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and not layout.kind:
            layout.kind = kind
            layout.size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
            layout.sampling = {
                segment[i]: (segment[i + 1] >> 4, segment[i + 1] & 15) for i in range(6, len(segment), 3)
            }
        elif kind == 0xDA:
            end = _next_marker(content, at, _ENDS_INTERVALS if interval else _IS_MARKER)
            layout.ends.append(end)
            components = [segment[i] for i in range(1, 1 + 2 * segment[0], 2)]
            if interval and len(_RESTART.findall(content, at, end)) < (_blocks(layout, components) - 1) // interval:
                raise ValueError("it is cut off")
            if not layout.is_progressive and len(components) == len(layout.sampling):
                break  # the only scan; what follows is not needed
            at, first, last, low = end, segment[-3], segment[-2], segment[-1] & 15
            layout.bits |= {(c, k): low for c in components for k in range(first, last + 1)}
            if len(layout.ends) > _MAX_SCANS:
                raise ValueError(f"it has more than {_MAX_SCANS} scans")
    if layout.is_progressive and any(layout.bits.get((c, k), 1) for c in layout.sampling for k in range(64)):
        raise ValueError("it is cut off: the last scans are missing")
    return layout


def _blocks(layout: _Layout, components: list[int]) -> int:
    """Number of units of a scan between which restart markers can be."""
    across = max(across for across, _ in layout.sampling.values())
    down = max(down for _, down in layout.sampling.values())
    own = layout.sampling[components[0]] if len(components) == 1 else (1, 1)
    columns, rows = -(-layout.size[0] * own[0] // (8 * across)), -(-layout.size[1] * own[1] // (8 * down))
    return columns * rows


def _decode(image: ImageFile.ImageFile, content: bytes, layout: _Layout) -> None:
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


def _pieces(content: bytes, layout: _Layout) -> Iterator[tuple[bytes, bool]]:
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
