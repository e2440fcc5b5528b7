"""TIFF and BMP read by their descriptions alone, in NumPy: plain layouts, and None for any other."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_SIZES = {1: 1, 3: 2, 4: 4}
_NUMBERS = {1: "B", 3: "H", 4: "I"}
# Tags of sizes, samples and strips, and those that do not change the picture; any other may.
_HARMLESS = frozenset(
    (254, 256, 257, 258, 259, 262, 269, 270, 271, 272, 273, 277, 278, 279, 282, 283, 284, 296, 305, 306)
)
_MOST = 1 << 20  # pixels


def read_tiff(data: bytes) -> Pixels | None:
    """Grey or RGB of 8 or 16 bits, not compressed, in strips."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return None
    try:
        tags = _tags(data, order)
        if tags is None or not tags.keys() <= _HARMLESS:
            return None
        width, height = tags[256][0], tags[257][0]
        samples, bits = tags.get(277, (1,))[0], tags[258]
        photometric = tags[262][0]
        known = {(1, 0), (1, 1), (3, 2)}
        if (samples, photometric) not in known or set(bits) not in ({8}, {16}) or len(bits) != samples:
            return None
        if tags.get(259, (1,)) != (1,) or tags.get(284, (1,)) != (1,) or not 0 < width * height < _MOST:
            return None
        rows = min(tags.get(278, (height,))[0], height)
        row_bytes = width * samples * bits[0] // 8
        pieces = []
        offsets, counts = tags[273], tags[279]
        if rows < 1 or len(offsets) != len(counts) or len(offsets) != -(-height // rows):
            return None
        for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            needed = min(rows, height - index * rows) * row_bytes
            piece = data[offset : offset + needed]
            if count != needed or len(piece) < needed:
                return None
            pieces.append(piece)
    except (struct.error, KeyError, IndexError):
        return None
    values = np.frombuffer(b"".join(pieces), np.dtype(f"{order}u{bits[0] // 8}")).reshape(height, width, samples)
    grey = values.astype(np.float64) * (255 / (2 ** bits[0] - 1))
    grey = 255 - grey if photometric == 0 else grey
    return np.broadcast_to(np.rint(grey), (height, width, 3)).astype(np.uint8)


def _tags(data: bytes, order: str) -> dict[int, tuple[int, ...]] | None:
    """The whole numbers in the first directory; None if it has a tag twice."""
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    found: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, at)
        if tag in found or number > 1000 or kind not in (1, 2, 3, 4, 5, 7):
            return None
        if kind not in _SIZES:
            found[tag] = ()
            continue
        place = at + 8
        if number * _SIZES[kind] > 4:
            (place,) = struct.unpack_from(order + "I", data, place)
        found[tag] = struct.unpack_from(f"{order}{number}{_NUMBERS[kind]}", data, place)
    return found


def read_bmp(data: bytes) -> Pixels | None:
    """24 bits, or a palette of 8, not compressed."""
    try:
        offset, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
        (colours,) = struct.unpack_from("<I", data, 46)
    except struct.error:
        return None
    if data[:2] != b"BM" or header != 40 or bits not in (8, 24) or compression or width <= 0 or not height:
        return None
    row = (width * bits + 31) // 32 * 4
    if width * abs(height) > _MOST or len(data) < offset + row * abs(height) or offset < 54:
        return None
    rows = np.frombuffer(data, np.uint8, row * abs(height), offset).reshape(abs(height), row)
    rows = rows[:: -1 if height > 0 else 1]
    if bits == 24:
        return rows[:, : 3 * width].reshape(abs(height), width, 3)[..., ::-1]
    colours = colours or 256
    if colours > 256 or 54 + 4 * colours > offset:
        return None
    palette = np.frombuffer(data, np.uint8, 4 * colours, 54).reshape(colours, 4)
    numbers = rows[:, :width]
    return None if numbers.max() >= colours else palette[numbers][..., 2::-1]
