"""PNG: checked by its checksums, whatever its metadata weigh, with a transparent colour at its full depth."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.parts import most_parts, refuse_parts

_ASIDE = frozenset(
    b"bKGD caBX cHRM cICP cLLI eXIf gAMA gIFg gIFx hIST iCCP iDOT iTXt mDCV oFFs pCAL pHYs sBIT sCAL sPLT sRGB sTER "
    b"tEXt tIME zTXt".split()
)
"""Chunks without which the pixels are the same. Another kind may be the damaged name of one that has pixels."""
_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")  # keywords of text chunks
Chunk = tuple[bytes, int, int]
"""The kind of a chunk, where it starts, and where it ends."""
PNG_START = b"\x89PNG\r\n\x1a\n"


def open_png(content: bytes, max_pixels: int) -> Image.Image:
    """The first picture, decoded; any exception if ``content`` is not a whole PNG.

    TooManyPixelsError, before anything is decoded, above ``max_pixels``.

    Pillow does not look at the checksums of pixels, and refuses a picture for a text or colour profile that is large,
    or for any part beside the pixels that is damaged.
    """
    require_size(*png_size(content), max_pixels)
    parts = png_chunks(content)
    damaged = {part for part in parts if not _is_sound(content, part)}
    for kind, *_ in damaged:
        if kind not in _ASIDE:
            raise ValueError(f"the checksum of its {kind.decode('ascii', 'backslashreplace')} is wrong")
    damaged |= second_profiles(parts)
    try:
        image = _loaded(_only(content, parts, damaged) if damaged else content)
    except ValueError as exc:
        if "text" not in str(exc).lower():
            raise
        image = _loaded(_only(content, parts, damaged | {part for part in parts if _is_bulk(content, part)}))
    key = image.info.get("transparency")
    depth = content[24]
    if image.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        return _without_colour(image, content, key)
    if image.mode in ("1", "L") and isinstance(key, int):  # Pillow scales the pixels to 8 bits, but not the key
        start = next(start for kind, start, _ in reversed(parts) if kind == b"tRNS")
        white = (1 << depth) - 1
        image.info["transparency"] = (content[start + 9] & white) * (255 // white)
    return image


def png_size(content: bytes, start: int = 0) -> tuple[int, int]:
    """Width and height of the PNG that begins at ``start``; ValueError if it does not begin with its header."""
    at = start + len(PNG_START)
    if content[at + 4 : at + 8] != b"IHDR":
        raise ValueError("it does not begin with its header")
    return int.from_bytes(content[at + 8 : at + 12]), int.from_bytes(content[at + 12 : at + 16])


def png_chunks(content: bytes, start: int = 0, *, most: int | None = None) -> list[Chunk]:
    """The chunks up to the end of the picture or of the file; UnsupportedFormatError if there are more than ``most``.

    ValueError for a second header: Pillow goes by the last one.
    """
    most = most_parts(len(content)) if most is None else most
    chunks = list(itertools.islice(_chunks(content, start), most + 1))
    refuse_parts(len(chunks), most, "chunks")
    if sum(kind == b"IHDR" for kind, *_ in chunks) != 1:
        raise ValueError("it has several headers")
    return chunks


def second_profiles(chunks: list[Chunk]) -> set[Chunk]:
    """Colour profiles but for the first: Pillow unpacks each, to a thousand times its size, and keeps the last."""
    return set([chunk for chunk in chunks if chunk[0] == b"iCCP"][1:])


def _chunks(content: bytes, start: int = 0) -> Iterator[Chunk]:
    at, kind = start + len(PNG_START), b""
    while kind != b"IEND" and at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if end > len(content):
            raise ValueError("it is cut off")
        yield kind, at, end
        at = end


def _is_sound(content: bytes, chunk: Chunk) -> bool:
    kind, start, end = chunk
    if kind == b"IEND":  # nobody looks at its checksum
        return True
    return zlib.crc32(memoryview(content)[start + 4 : end - 4]) == int.from_bytes(content[end - 4 : end])


def _is_bulk(content: bytes, chunk: Chunk) -> bool:
    kind, start, _ = chunk
    is_text = kind in (b"tEXt", b"zTXt", b"iTXt")
    return kind == b"iCCP" or (is_text and not content.startswith(_ORIENTATION, start + 8))


def _only(content: bytes, parts: list[Chunk], without: set[Chunk]) -> bytes:
    return content[:8] + b"".join(content[part[1] : part[2]] for part in parts if part not in without)


def _loaded(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content), formats=("PNG",))
    image.load()
    return image


def _without_colour(image: Image.Image, content: bytes, key: tuple[int, int, int]) -> Image.Image:
    """``image`` with an alpha channel: 0 where all 16 bits of each channel are ``key``; Pillow keeps the upper 8."""
    lower = Image.open(BytesIO(content), formats=("PNG",))
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # read as if the low byte came last
    values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower)
    alpha = np.where((values == np.array(key, np.uint16)).all(axis=-1), 0, 255).astype(np.uint8)
    del image.info["transparency"]
    image.putalpha(Image.fromarray(alpha))
    return image
