"""Image files of as many parts as a test asks for: segments, chunks, blocks, tags, strips, boxes."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
from PIL import Image

from tests.helpers.pictures import png_chunk

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
GREY = NOISE[..., 0].copy()


def saved(kind: str, values: np.ndarray = NOISE, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def segment(marker: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(first: bytes = b"", last: bytes = b"", **options: object) -> bytes:
    """A JPEG with more behind its first marker, and before its last one."""
    content = saved("JPEG", **options)
    return content[:2] + first + content[2:-2] + last + content[-2:]


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def icon(entries: int, picture: bytes) -> bytes:
    """An icon all whose entries are the same picture."""
    entry = struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, len(picture), 6 + 16 * entries)
    return struct.pack("<HHH", 0, 1, entries) + entry * entries + picture


def icon_of(*pictures: bytes) -> bytes:
    """An icon with an entry for each picture."""
    starts = itertools.accumulate(map(len, pictures), initial=6 + 16 * len(pictures))
    sizes = zip(map(len, pictures), starts, strict=False)  # the last start is the end of the file
    entries = (struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, size, start) for size, start in sizes)
    return struct.pack("<HHH", 0, 1, len(pictures)) + b"".join(entries) + b"".join(pictures)


def gif(blocks: bytes) -> bytes:
    """A GIF with more before its frame."""
    content = saved("GIF", GREY)
    at = content.index(b",", 13 + 3 * 256)
    return content[:at] + blocks + content[at:]


def big_tiff(tags: int) -> bytes:
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, tags) + bytes(20 * tags)


def strips(rows: int, bytes_per_row: int) -> bytes:
    """A raw TIFF with a strip per row."""
    names = (256, 257, 258, 259, 262, 273, 277, 278, 279)
    far = 8 + 2 + 12 * len(names) + 4
    start = far + 8 * rows
    values = (bytes_per_row, rows, 8, 1, 1, far, 1, 1, far + 4 * rows)
    entries = [(tag, 4, rows if tag in (273, 279) else 1, value) for tag, value in zip(names, values, strict=True)]
    offsets = struct.pack(f"<{rows}I", *range(start, start + rows * bytes_per_row, bytes_per_row))
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        + bytes(4)
        + offsets
        + struct.pack("<I", bytes_per_row) * rows
        + np.random.default_rng(0).bytes(rows * bytes_per_row)
    )


def jp2(inside: bytes = b"", outside: bytes = b"") -> bytes:
    """A JPEG 2000 file with more boxes in its header, and before it."""
    content = saved("JPEG2000")
    at = content.index(b"jp2h") - 4
    end = at + int.from_bytes(content[at : at + 4])
    return content[:at] + outside + box(b"jp2h", content[at + 8 : end] + inside) + content[end:]


def codestream(more: bytes) -> bytes:
    """A JPEG 2000 codestream with more segments."""
    content = saved("JPEG2000", no_jp2=True)
    at = content.index(b"\xff\x52")
    return content[:at] + more + content[at:]


def layered(layers: int) -> bytes:
    content = bytearray(saved("JPEG2000", no_jp2=True))
    struct.pack_into(">H", content, content.index(b"\xff\x52") + 6, layers)
    return bytes(content)


def pieces(whole: bytes, size: int) -> bytes:
    """The pixels of a PNG in chunks of ``size`` bytes."""
    at = whole.index(b"IDAT") + 4
    data = whole[at : at + int.from_bytes(whole[at - 8 : at - 4])]
    return b"".join(png_chunk(b"IDAT", data[start : start + size]) for start in range(0, len(data), size))
