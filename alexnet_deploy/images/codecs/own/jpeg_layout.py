"""JPEG: where its segments and scans are, found without decoding anything and before Pillow opens it.

Pillow keeps every segment before the first scan, joins those of EXIF one by one, and reads what lies between segments
byte by byte. So a file with more of these than any photo has is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.images.codecs.parts import MOST_EXIF, most_parts, refuse_parts

_IS_MARKER = np.array([0 < second < 0xFF for second in range(256)])
"""Second bytes of markers; 0 stands for a stuffed 0xFF in the data of a scan."""
_ENDS_INTERVALS = _IS_MARKER & ~np.isin(np.arange(256), range(0xD0, 0xD8))
"""The same without restart markers, which belong to a scan that is divided into intervals."""
_IS_RESTART = _IS_MARKER & ~_ENDS_INTERVALS
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9), 0xC8, *range(0xF0, 0xFE)))
"""Markers that Pillow takes for no more than two bytes. libjpeg refuses the last ones, which are reserved."""
_FIRST_WINDOW, _WINDOW = 1 << 8, 1 << 16  # bytes searched at a time: mostly the next marker is near, but not always
_MOST_BETWEEN = 1 << 16  # bytes between segments; some cameras fill up with a few thousand
_MOST_PARSED = 64  # segments of EXIF, and of Photoshop: of 64 KiB each, so one or two are usual
_MAX_SCANS = 100  # ten are usual; each costs a pass over the picture, and a hostile file can have thousands


@dataclass(slots=True)
class Layout:
    """Where the parts of a JPEG are. ``kind`` is the second byte of the frame's marker, 0 if there is no frame."""

    kind: int = 0
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each component: across, down
    ends: list[int] = field(default_factory=list)  # of the data of each scan
    end: int = 0  # of the image: behind its end marker
    bits: dict[tuple[int, int], int] = field(default_factory=dict)
    """Lowest bit of (component, coefficient) so far; empty if one scan has them all."""

    @property
    def is_progressive(self) -> bool:
        return self.kind == 0xC2


def jpeg_layout(content: bytes) -> Layout:
    """The parts of the image; ValueError for one that lacks data which its headers promise.

    UnsupportedFormatError for more segments, or more between them, than a photo has.
    """
    layout, interval, parts, parsed = Layout(end=len(content)), 0, _Parts(len(content)), _Parsed()
    at = before = 2
    while (at := _next_marker(content, at)) < len(content):
        parts.add(0 if layout.ends else at - before)
        kind, at = content[at + 1], at + 2
        before = at
        if kind == 0xD9:
            layout.end = at
            break
        if kind in _WITHOUT_LENGTH:
            continue
        length = max(int.from_bytes(content[at : at + 2], "big"), 2)
        segment, at = content[at + 2 : at + length], at + length
        before = at
        if kind == 0xDD:
            interval = int.from_bytes(segment[:2], "big")
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and not layout.kind:
            layout.kind = kind
            layout.size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
            layout.sampling = {
                segment[i]: (segment[i + 1] >> 4, segment[i + 1] & 15) for i in range(6, len(segment), 3)
            }
        elif kind == 0xDA:
            end = _next_marker(content, at, _ENDS_INTERVALS if interval else _IS_MARKER, _WINDOW)
            layout.ends.append(end)
            components = [segment[i] for i in range(1, 1 + 2 * segment[0], 2)]
            if interval and _restarts(content, at, end) < (_blocks(layout, components) - 1) // interval:
                raise ValueError("it is cut off")
            if not layout.is_progressive and len(components) == len(layout.sampling):
                break  # the only scan; what follows is not needed
            at = end
            if layout.is_progressive:
                first, last, low = segment[-3], segment[-2], segment[-1] & 15
            else:
                first, last, low = 0, 63, 0  # libjpeg reads all of them, whatever the scan says
            layout.bits |= {(c, k): low for c in components for k in range(first, last + 1)}
            if len(layout.ends) > _MAX_SCANS:
                raise ValueError(f"it has more than {_MAX_SCANS} scans")
        else:
            parsed.add(kind, segment)
    if not layout.ends:
        raise ValueError("it has no picture")
    if layout.bits and any(layout.bits.get((c, k), 1) for c in layout.sampling for k in range(64)):
        raise ValueError("it is cut off: the last scans are missing")
    return layout


class _Parts:
    """Counts markers, and bytes before the first scan that belong to no segment."""

    def __init__(self, size: int) -> None:
        self._count, self._most, self._between = 0, most_parts(size), 0

    def add(self, between: int) -> None:
        self._count += 1
        self._between += between
        refuse_parts(self._count, self._most, "segments")
        refuse_parts(self._between, _MOST_BETWEEN, "bytes between its segments")


class _Parsed:
    """Counts segments that Pillow joins or takes apart."""

    def __init__(self) -> None:
        self._exif_bytes = self._exif = self._photoshop = 0

    def add(self, kind: int, segment: bytes) -> None:
        if kind == 0xE1 and segment.startswith(b"Exif\0\0"):
            self._exif += 1
            self._exif_bytes += len(segment)
            refuse_parts(self._exif, _MOST_PARSED, "segments of EXIF")
            refuse_parts(self._exif_bytes, MOST_EXIF, "bytes of EXIF")
        elif kind == 0xED and segment.startswith(b"Photoshop 3.0\0"):
            self._photoshop += 1
            refuse_parts(self._photoshop, _MOST_PARSED, "segments of Photoshop")


def _next_marker(
    content: bytes, at: int, kinds: NDArray[np.bool_] = _IS_MARKER, first_window: int = _FIRST_WINDOW
) -> int:
    """Where the next marker of ``kinds`` begins; the length of ``content`` if there is none."""
    if content[at : at + 1] == b"\xff" and at + 1 < len(content) and kinds[content[at + 1]]:
        return at
    end, window = len(content) - 1, first_window
    while at < end:
        window = min(window, end - at)
        found = _marks(content, at, window, kinds)
        if found.size:
            return at + int(found[0])
        at, window = at + window, _WINDOW
    return len(content)


def _restarts(content: bytes, start: int, end: int) -> int:
    """Number of restart markers."""
    starts = range(start, end - 1, _WINDOW)
    return sum(_marks(content, at, min(_WINDOW, end - 1 - at), _IS_RESTART).size for at in starts)


def _marks(content: bytes, start: int, size: int, kinds: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where markers of ``kinds`` begin among ``size`` bytes from ``start`` on."""
    view = np.frombuffer(content, np.uint8, size + 1, start)
    found = np.flatnonzero(view[:-1] == 0xFF)
    return found[kinds[view[found + 1]]]


def _blocks(layout: Layout, components: list[int]) -> int:
    """Number of units of a scan between which restart markers can be."""
    across = max(across for across, _ in layout.sampling.values())
    down = max(down for _, down in layout.sampling.values())
    own = layout.sampling[components[0]] if len(components) == 1 else (1, 1)
    columns, rows = -(-layout.size[0] * own[0] // (8 * across)), -(-layout.size[1] * own[1] // (8 * down))
    return columns * rows
