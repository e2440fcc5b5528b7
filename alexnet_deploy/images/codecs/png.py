"""PNG: checked by its checksums, whatever its metadata weigh, with a transparent colour at its full depth."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")  # keywords of text chunks


def open_png(content: bytes) -> Image.Image:
    """The first picture, decoded; any exception if ``content`` is not a whole PNG.

    Pillow does not look at the checksums of pixels, and refuses a picture for a text or colour profile that is large.
    """
    parts = list(_chunks(content))
    for kind, start, end in parts:
        if kind in _PIXELS and zlib.crc32(content[start + 4 : end - 4]).to_bytes(4, "big") != content[end - 4 : end]:
            raise ValueError(f"the checksum of its {kind.decode()} is wrong")
    try:
        image = _loaded(content)
    except ValueError as exc:
        if "text" not in str(exc).lower():
            raise
        kept = (content[start:end] for kind, start, end in parts if not _is_bulk(kind, content[start + 8 : start + 40]))
        image = _loaded(content[:8] + b"".join(kept))
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and content[24] == 16:
        return _without_colour(image, content, key)
    return image


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, where it starts, and where it ends, up to the end of the picture or of the file."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if end > len(content):
            raise ValueError("it is cut off")
        yield kind, at, end
        at = end


def _is_bulk(kind: bytes, text: bytes) -> bool:
    return kind == b"iCCP" or (kind in (b"tEXt", b"zTXt", b"iTXt") and not text.startswith(_ORIENTATION))


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
