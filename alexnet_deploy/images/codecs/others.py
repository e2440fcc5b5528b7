"""Open an image file that is no JPEG: the format by its first bytes, and the module that reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from alexnet_deploy.images.codecs.checked.avif import may_be_avif, open_avif
from alexnet_deploy.images.codecs.checked.gif import GIF_STARTS, open_gif
from alexnet_deploy.images.codecs.checked.jpeg2000 import JPEG2000_STARTS, open_jpeg2000
from alexnet_deploy.images.codecs.checked.webp import webp_size
from alexnet_deploy.images.codecs.formats import name_of_format, open_with_package, pillow_formats, require_size
from alexnet_deploy.images.codecs.own.bmp import has_bitfields, open_bitfields
from alexnet_deploy.images.codecs.own.bmp_runs import has_runs, open_runs
from alexnet_deploy.images.codecs.own.ico import ICO_START, open_ico
from alexnet_deploy.images.codecs.own.png import PNG_START, open_png
from alexnet_deploy.images.codecs.own.ppm import is_ppm, open_ppm
from alexnet_deploy.images.codecs.own.tiff import TIFF_STARTS, open_tiff

MAX_BYTES = 1 << 30
"""Larger files are refused, except TIFF: they are read into memory, and no photo has so many bytes."""


def open_other(stream: BinaryIO, head: bytes, path: Path | None, max_pixels: int) -> Image.Image:
    """An image that begins with ``head``, decoded or not; any exception if no module reads it."""
    if head.startswith(PNG_START):
        return open_png(read_whole(stream), max_pixels)
    if head.startswith(ICO_START):
        return open_ico(read_whole(stream), max_pixels)
    if head.startswith(TIFF_STARTS):
        return open_tiff(stream, max_pixels)
    if head.startswith(GIF_STARTS):
        return open_gif(read_whole(stream))
    if head.startswith(JPEG2000_STARTS):
        return open_jpeg2000(read_whole(stream), max_pixels)
    if head.startswith(b"BM") and has_bitfields(head):
        return open_bitfields(read_whole(stream), max_pixels)
    if has_runs(head):
        return open_runs(read_whole(stream), max_pixels)
    if is_ppm(head):
        return open_ppm(read_whole(stream), max_pixels)
    if (size := webp_size(head)) is not None:
        require_size(*size, max_pixels)
    start = stream.tell()
    try:
        if may_be_avif(head):
            return open_avif(read_whole(stream))
        return Image.open(stream, formats=pillow_formats(path))
    except UnidentifiedImageError:
        if (kind := name_of_format(head)) is None:
            raise
        stream.seek(start)
        return open_with_package(kind, stream, max_pixels)


def read_whole(stream: BinaryIO) -> bytes:
    """The rest of the stream; ValueError above ``MAX_BYTES``."""
    start = stream.tell()
    if stream.seek(0, os.SEEK_END) - start > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    stream.seek(start)
    return stream.read()
