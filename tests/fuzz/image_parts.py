"""Image files taken apart and put together: segments of JPEG, chunks of PNG and RIFF, boxes of ISO, tags of TIFF."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass

from tests.fuzz.mutate import ODD_INTS, damage


@dataclass(slots=True)
class Part:
    """A part of a file: its kind, its content, and how it is written. ``lie`` stands for its length if given."""

    kind: bytes
    content: bytes
    lie: int | None = None


def jpeg_parts(data: bytes) -> tuple[list[Part], bytes]:
    """The segments up to the first scan, and all from its data on."""
    parts, at = [], 2
    while True:
        kind, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(Part(kind, data[at + 4 : at + 2 + length]))
        at += 2 + length
        if kind == b"\xff\xda":
            return parts, data[at:]


def jpeg(parts: list[Part], scan: bytes) -> bytes:
    """Undo ``jpeg_parts``."""
    out = b"\xff\xd8"
    for part in parts:
        length = len(part.content) + 2 if part.lie is None else part.lie
        out += part.kind + (length & 0xFFFF).to_bytes(2, "big") + part.content
    return out + scan


def png_parts(data: bytes) -> list[Part]:
    """All chunks."""
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def png(parts: list[Part]) -> bytes:
    """Undo ``png_parts``; every checksum is right."""
    out = b"\x89PNG\r\n\x1a\n"
    for part in parts:
        length = len(part.content) if part.lie is None else part.lie
        checksum = zlib.crc32(part.kind + part.content)
        out += (length % 2**32).to_bytes(4, "big") + part.kind + part.content + checksum.to_bytes(4, "big")
    return out


def riff_parts(data: bytes) -> list[Part]:
    """All chunks of a WebP."""
    parts, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(Part(data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def riff(parts: list[Part]) -> bytes:
    """Undo ``riff_parts``."""
    body = b"WEBP"
    for part in parts:
        length = len(part.content) if part.lie is None else part.lie
        body += part.kind + (length % 2**32).to_bytes(4, "little") + part.content + b"\0" * (len(part.content) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def box_parts(data: bytes) -> list[Part]:
    """The outermost boxes of an ISO file: JPEG 2000, AVIF, HEIC, JPEG XL."""
    parts, at = [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
            parts.append(Part(data[at + 4 : at + 8], data[at + 16 : at + length]))
        else:
            parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += max(8, length)
    return parts


def boxes(parts: list[Part]) -> bytes:
    """Undo ``box_parts``."""
    out = b""
    for part in parts:
        length = len(part.content) + 8 if part.lie is None else part.lie
        out += (length % 2**32).to_bytes(4, "big") + part.kind + part.content
    return out


def changed_parts(parts: list[Part], rng: random.Random) -> str:
    """Change the list in place, and return what was changed."""
    at = rng.randrange(len(parts))
    part = parts[at]
    name = part.kind.decode("latin-1")
    match rng.randrange(7):
        case 0:
            del parts[at]
            return f"{name!r} removed"
        case 1:
            parts.insert(rng.randrange(len(parts) + 1), part)
            return f"{name!r} twice"
        case 2:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
            return f"{name!r} moved"
        case 3:
            lie = rng.choice((*ODD_INTS, len(part.content) + 1, len(part.content) - 1))
            parts[at] = Part(part.kind, part.content, lie)
            return f"{name!r} with length {lie}"
        case 4 | 5:
            parts[at] = Part(part.kind, damage(part.content, rng, within=64))
            return f"{name!r} damaged"
        case _:
            parts[at] = Part(part.kind, b"")
            return f"{name!r} empty"


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_TAGS = (
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339,
    340, 341, 347, 512, 513, 529, 530, 532, 700, 34665, 34675, 50706,
)  # fmt: skip


def changed_tiff(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A TIFF with an entry of its first directory changed, and what was changed."""
    order = "<" if data[:2] == b"II" else ">"
    out = bytearray(data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    at = start + 2 + 12 * rng.randrange(count)
    tag, kind, number = struct.unpack_from(order + "HHI", data, at)
    match rng.randrange(8):
        case 0:
            struct.pack_into(order + "H", out, at, rng.choice(_TIFF_TAGS))
        case 1:
            struct.pack_into(order + "H", out, at + 2, rng.choice((*_TIFF_SIZES, 0, 99)))
        case 2:
            struct.pack_into(order + "I", out, at + 4, rng.choice((0, 1, 2, 3, 4, 5, 1000, 2**28, 2**32 - 1)))
        case 3 | 4 | 5:
            value = rng.choice(
                (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 255, 65535, 2**31, 2**32 - 1, len(data), start)
            )
            inline = _TIFF_SIZES.get(kind, 1) * number <= 4
            if inline and kind == 3:
                struct.pack_into(order + "H", out, at + 8, value & 0xFFFF)
            else:
                struct.pack_into(order + "I", out, at + 8, value)
        case 6:  # a circle of directories
            struct.pack_into(order + "I", out, start + 2 + 12 * count, rng.choice((start, 8, 2**31, len(data))))
        case _:
            struct.pack_into(order + "H", out, start, rng.choice((0, 1, count - 1, count + 1, 65535)))
    return bytes(out), f"tag {tag} of {kind} x {number}"
