"""Pictures of noise, and image files in layouts that Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

RGB = np.random.default_rng(0).integers(1, 256, (20, 24, 3), dtype=np.uint8)
"""Noise, in which no channel is 0."""
GREY = RGB[..., 0].copy()
GREY[0, :2] = 0, 255  # the whole range, which a stretched scale then leaves as it is

_SIZES = {1: "B", 3: "H", 4: "I"}  # of the values of a TIFF tag: byte, short, long


def tiff(
    values: NDArray[np.generic],
    *,
    photometric: int,
    order: str = "<",
    planar: bool = False,
    compressed: bool = False,
    extra: tuple[int, ...] = (),
    bits: int | None = None,
    data: bytes | None = None,
    tags: Mapping[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF of samples ``[H, W]`` or ``[H, W, C]``, one strip per plane; ``tags`` are more of (type, *values)."""
    height, width, *channels = values.shape
    count = channels[0] if channels else 1
    stored = values.astype(values.dtype.newbyteorder(order))
    planes = [stored[..., c] for c in range(count)] if planar else [stored]
    strips = [data if data is not None else np.ascontiguousarray(plane).tobytes() for plane in planes]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    entries: dict[int, tuple[int, ...]] = {
        256: (4, width),
        257: (4, height),
        258: (3, *[bits or 8 * values.dtype.itemsize] * count),
        259: (3, 8 if compressed else 1),
        262: (3, photometric),
        277: (3, count),
        278: (4, height),
        279: (4, *map(len, strips)),
        284: (3, 2 if planar else 1),
        339: (3, *[{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * count),
        **({338: (3, *extra)} if extra else {}),
        **(tags or {}),
    }
    start = 8 + 2 + 12 * (len(entries) + 1) + 4  # the tag of the strips' offsets comes on top
    far_bytes = sum(len(raw) for kind, *v in entries.values() if len(raw := _raw(order, kind, v)) > 4)
    first = start + far_bytes + (4 * len(strips) if len(strips) > 1 else 0)
    entries[273] = (4, *(first + sum(map(len, strips[:i])) for i in range(len(strips))))
    head, far = b"", b""
    for tag, (kind, *found) in sorted(entries.items()):
        raw = _raw(order, kind, found)
        if len(raw) > 4:
            raw, far = struct.pack(f"{order}I", start + len(far)), far + raw
        head += struct.pack(f"{order}HHI", tag, kind, len(found)) + raw.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HIH", 42, 8, len(entries)) + head + bytes(4) + far + b"".join(strips)


def _raw(order: str, kind: int, values: list[int]) -> bytes:
    return struct.pack(f"{order}{len(values)}{_SIZES[kind]}", *values)


def bmp(
    rgb: NDArray[np.uint8],
    bits: int,
    masks: tuple[int, ...],
    header: int,
    *,
    alpha: ArrayLike = 255,
    top_down: bool = False,
) -> bytes:
    """A BMP whose channels are bit fields, with a header of that many bytes."""
    height, width, _ = rgb.shape
    words = np.zeros((height, width), np.uint64)
    for mask, channel in zip(masks, [*np.moveaxis(rgb, 2, 0), alpha], strict=False):
        shift = (mask & -mask).bit_length() - 1
        white = mask >> shift
        words |= np.rint(np.broadcast_to(channel, words.shape) * (white / 255)).astype(np.uint64) << np.uint64(shift)
    rows = np.zeros((height, (width * bits + 31) // 32 * 4 * 8 // bits), f"<u{bits // 8}")
    rows[:, :width] = words
    pixels = (rows if top_down else rows[::-1]).tobytes()
    compression = 6 if header == 40 and len(masks) == 4 else 3
    info = struct.pack(
        "<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, len(pixels), 0, 0, 0, 0
    )
    if header == 52:
        masks = masks[:3]  # it has no place for alpha
    info = (info + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: NDArray[np.generic], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 or 16-bit grey ``[H, W]`` or RGB ``[H, W, 3]`` with more chunks before the pixels."""
    height, width, *channels = values.shape
    depth, colour = 8 * values.dtype.itemsize, 2 if channels else 0
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + b"".join(png_chunk(*chunk) for chunk in chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def gif_within(
    frame: Image.Image, canvas: tuple[int, int], at: tuple[int, int], transparency: int | None, background: int
) -> bytes:
    """A GIF whose only frame lies ``at`` a place of a larger canvas."""
    stream = io.BytesIO()
    frame.save(stream, "GIF", background=background, **({} if transparency is None else {"transparency": transparency}))
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", *canvas)
    palette = 3 * (2 << (content[10] & 7)) if content[10] & 128 else 0
    descriptor = content.index(b",", 13 + palette)
    content[descriptor + 1 : descriptor + 5] = struct.pack("<HH", *at)
    return bytes(content)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture that no codec without loss makes smaller."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
