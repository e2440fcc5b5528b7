"""GIF: the first frame alone. Pillow joins the comments before it, and reads what follows byte by byte."""

from __future__ import annotations

import re
from io import BytesIO

from PIL import Image

from alexnet_deploy.images.codecs.parts import UnsupportedFormatError, most_parts, refuse_parts

GIF_STARTS = (b"GIF87a", b"GIF89a")
_SCREEN, _DESCRIPTOR = 13, 10  # bytes
_CONTROL = 0xF9
_SMALLEST_BLOCK = 16  # bytes, on average: most encoders fill blocks of 255, and those of an XMP packet are its letters
_BLOCK_COST = 16  # one that starts an extension takes as long as so many of its data
_BLOCK_START = re.compile(rb"[!,;]")  # an extension, a frame, the end; other bytes are skipped, as Pillow does


def open_gif(content: bytes) -> Image.Image:
    """The first frame, not yet decoded; any exception if there is none. ``is_animated`` says whether another follows.

    UnsupportedFormatError for more blocks than ``most_parts`` allows.
    """
    walk = _Walk(content)
    transparency = b""
    while (at := walk.next_block()) is not None and content[at] == 0x21:
        end = walk.end_of_blocks(at + 2)
        if content[at + 1 : at + 2] == bytes((_CONTROL,)) and content[at + 3] & 1:  # the last one with a colour counts
            transparency = content[at : at + 3 + content[at + 2]] + b"\0"
        walk.at = end
    if at is None or content[at] != 0x2C:
        raise ValueError("it has no frame")
    codes = at + _DESCRIPTOR + _table(content[at + 9])
    walk.at = walk.end_of_blocks(codes + 1)
    image = Image.open(BytesIO(content[: walk.start] + transparency + content[at : walk.at]), formats=("GIF",))
    vars(image)["is_animated"] = walk.has_frame()  # otherwise Pillow looks for it in what it got
    return image


def _table(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class _Walk:
    """Goes from block to block."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._count, self._most = 0, most_parts(len(content), _SMALLEST_BLOCK)
        self.start = self.at = _SCREEN + _table(content[10])

    def next_block(self) -> int | None:
        """Where the next block starts; None at the end of the file."""
        self._count += _BLOCK_COST
        refuse_parts(self._count, self._most, "blocks")
        found = _BLOCK_START.search(self._content, self.at)
        return found.start() if found else None

    def end_of_blocks(self, at: int) -> int:
        """Behind the blocks of data that begin at ``at``, which end with an empty one or with the file."""
        content, size, count = self._content, len(self._content), self._count
        while at < size and (length := content[at]):
            at += length + 1
            count += 1
            if count > self._most:
                refuse_parts(count, self._most, "blocks")
        self._count = count
        return at + 1

    def has_frame(self) -> bool:
        """Whether a frame is next but for extensions. Nothing is refused: the picture does not depend on it."""
        try:
            while (at := self.next_block()) is not None and self._content[at] == 0x21:
                self.at = self.end_of_blocks(at + 2)
        except UnsupportedFormatError:
            return False
        return at is not None and self._content[at] == 0x2C
