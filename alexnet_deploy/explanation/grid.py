"""Small grey or coloured pictures in rows, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# Legend: H height, W width, C channel (RGB)

COLUMNS = 16
"""Six rows for the paper's 96 filters, as in its figure 3."""
_GAP = 2
_PAPER = 255


def sheet(tiles: Sequence[NDArray[np.uint8]], side: int) -> Image.Image:
    """Draw ``tiles`` (``[H, W, 3]``, all of one size) in rows of ``COLUMNS``, each about ``side`` pixels high or wide.

    A tile that is smaller is enlarged by a whole number, so that its pixels stay squares; a larger one is scaled down.
    """
    height, width = tiles[0].shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        scale = int(scale)
    tile_width, tile_height = max(1, round(width * scale)), max(1, round(height * scale))
    columns, rows = min(COLUMNS, len(tiles)), -(-len(tiles) // COLUMNS)
    size = (columns * (tile_width + _GAP) + _GAP, rows * (tile_height + _GAP) + _GAP)
    paper = Image.new("RGB", size, (_PAPER,) * 3)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    for index, tile in enumerate(tiles):
        place = (index % COLUMNS * (tile_width + _GAP) + _GAP, index // COLUMNS * (tile_height + _GAP) + _GAP)
        paper.paste(Image.fromarray(tile).resize((tile_width, tile_height), how), place)
    return paper


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG that is as small as Pillow makes it, and that says who drew it: so a later run may replace it."""
    origin = PngInfo()
    origin.add_text("Software", "alexnet-deploy")
    picture.save(path, "PNG", optimize=True, pnginfo=origin)
