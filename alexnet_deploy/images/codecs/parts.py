"""How many parts a file may have. What no photo has is refused before a Python loop, of Pillow mostly, goes over it."""

from __future__ import annotations

MOST_PARTS = 10_000
"""Segments, chunks, boxes or blocks of a file whatever its size. Photos have a few hundred at most. Each costs a step
of a Python loop, here or in Pillow, and a hostile file can have millions."""

MOST_EXIF = 1 << 20
"""Bytes of EXIF in an image: cameras write up to 64 KiB, and Pillow makes an object of a hundred bytes from eight."""


class UnsupportedFormatError(Exception):
    """The file is of a kind that is not decoded; the message is the cause and the next step."""


def most_parts(size: int, part: int = 1024) -> int:
    """How many parts a file of ``size`` bytes may have: ``MOST_PARTS``, and one per ``part`` bytes."""
    return MOST_PARTS + size // part


def refuse_parts(count: int, most: int, what: str) -> None:
    """UnsupportedFormatError if a file has more than ``most`` of ``what``."""
    if count > most:
        raise UnsupportedFormatError(f"has more than {most} {what}, which no photo needs; export it again")
