"""AVIF: without its EXIF. Its own boxes say how it is turned, and Pillow takes all of an EXIF apart to override it."""

from __future__ import annotations

import re
from io import BytesIO

from PIL import Image

_BRANDS = re.compile(rb"....ftyp(?:avi[fs]|mif1|msf1)", re.DOTALL)
_EXIF_ENTRY = re.compile(rb"(infe(?:\x02...(?:..)|\x03...(?:....))..)Exif", re.DOTALL)
"""ISO 14496-12, 8.11.6: version, flags, number of the item, protection, and its type."""


def may_be_avif(head: bytes) -> bool:
    """Whether a file with these first bytes may be an AVIF; some that begin so are HEIC."""
    return _BRANDS.match(head) is not None


def open_avif(content: bytes) -> Image.Image:
    """The picture, not yet decoded; UnidentifiedImageError if Pillow does not read it."""
    return Image.open(BytesIO(_EXIF_ENTRY.sub(rb"\1none", content)), formats=("AVIF",))
