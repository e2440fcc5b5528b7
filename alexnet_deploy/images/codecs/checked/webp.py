"""WebP: the size in the header. Pillow takes memory of that size when it opens a file, not when it decodes it."""

from __future__ import annotations

HEADER_BYTES = 30  # up to the end of the size in the longest of the three kinds of first chunk


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in pixels by the first ``HEADER_BYTES``; None if they do not say them.

    RFC 9649: section 2.7.1 for a canvas (VP8X), 3.4 for lossless (VP8L); RFC 6386, section 9.1, for lossy.
    """
    if len(head) < HEADER_BYTES or not head.startswith(b"RIFF") or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + _little(head, 24, 3), 1 + _little(head, 27, 3)
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = _little(head, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return _little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF
    return None


def _little(head: bytes, start: int, count: int) -> int:
    return int.from_bytes(head[start : start + count], "little")
