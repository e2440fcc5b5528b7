"""Pictures inside a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from alexnet_deploy.images.decode import open_rgb


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG as a ``data:`` address, with its size in pixels."""

    source: str
    width: int
    height: int


def embed(file: Path, side: int) -> Picture:
    """Return ``file`` with a longer side of ``side`` pixels at most; InputError if it cannot be read."""
    picture = open_rgb(file)
    picture.thumbnail((side, side))
    return embed_image(picture, quality=80)


def embed_image(picture: Image.Image, *, quality: int) -> Picture:
    """Return an RGB image as it is, as a JPEG of ``quality`` (0 to 100)."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    address = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(address, picture.width, picture.height)
