"""Image file -> uint8 RGB pixels: the only definition of decode, orientation, resize and crop.

Training, calibration, inference and evaluation all use it, so all see the same pixels.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.files import open_regular
from alexnet_deploy.images.codecs import formats
from alexnet_deploy.images.codecs.others import open_other, read_whole
from alexnet_deploy.images.codecs.own.jpeg import JPEG_START, open_jpeg
from alexnet_deploy.images.codecs.parts import MOST_EXIF, UnsupportedFormatError, refuse_parts
from alexnet_deploy.images.codecs.rgb import to_rgb
from alexnet_deploy.images.photo import SIDEWAYS, Box, Photo

# Legend: H height, W width, C channel (RGB)

MAX_PIXELS = 178_956_970
"""Larger images are refused. This is Pillow's own limit, which holds here even if a program has lifted Pillow's."""

_log = logging.getLogger(__name__)
_QUIET: tuple[Any, ...] = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_HEAD = 4096  # bytes that tell the format; an SVG may begin with a comment
_ORIENTATION = 0x0112  # of EXIF
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MinSide = Callable[[int, int], int | None]
"""Width and height of an upright JPEG to the pixels that its shorter side keeps at least; None: all."""
_MOST_RESIZED = 1 << 26  # pixels; a panorama would need gigabytes
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_pixels(path: Path, pre: Preprocessing, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of an image file, written into ``out`` if given; raises InputError as ``open_rgb`` does."""
    resized = resize(open_photo(path, pre), pre)
    if out is None:
        return np.array(resized, dtype=np.uint8)
    out[...] = np.asarray(resized)
    return out


def open_photo(
    source: Path | BinaryIO | bytes, pre: Preprocessing, *, name: str | None = None, max_pixels: int | None = None
) -> Photo:
    """``open_rgb``, by the rule of ``pre.decoding``: for ``resize`` or ``to_pixels`` with the same ``pre``.

    The pixels that count for ``max_pixels`` are those in full.
    """
    side = pre.decoded_side
    return _open(source, name, max_pixels, None if side is None else lambda width, height: side)


def open_crop(
    source: Path, choose: Callable[[int, int], Box], pre: Preprocessing, height: int, width: int
) -> tuple[Photo, Box]:
    """A picture for a crop of ``height`` x ``width`` pixels, and the box of it that is resized to them.

    ``choose`` gets width and height of the upright picture, once, and returns the box. By the rule of ``pre.decoding``
    a JPEG is decoded smaller where the box keeps enough pixels. Raises InputError as ``open_rgb`` does.
    """
    factor, boxes = pre.decoded_factor, []

    def min_side(*size: int) -> int:
        boxes.append(choose(*size))
        left, top, right, bottom = boxes[0]
        return math.ceil(min(size) * max(width / (right - left), height / (bottom - top)) * (factor or 1))

    photo = _open(source, None, None, min_side if factor else None)
    return photo, boxes[0] if boxes else choose(*photo.size)


def open_rgb(source: Path | BinaryIO | bytes, *, name: str | None = None, max_pixels: int | None = None) -> Image.Image:
    """Decode the first frame of an image in full: upright by its EXIF orientation, mode RGB, detached from its file.

    Transparency is laid over white, as browsers and photo viewers show it: without the alpha channel the hidden colour
    would show, mostly black. Grey of more than 8 bits is scaled as ``grey.scale_grey`` says. Formats that Pillow does
    not read need a package (``formats``), which is imported only for such a file.

    Raises InputError (``name`` or the path, and the cause) for anything that is not a whole image: missing,
    unreadable, empty, cut off, of another kind, above ``max_pixels`` (at most, and without it, ``MAX_PIXELS``), or no
    plain file. The pixels are counted by the header, before they are decoded.
    """
    return _open(source, name, max_pixels, None).image


def _open(
    source: Path | BinaryIO | bytes, name: str | None, max_pixels: int | None, min_side: _MinSide | None
) -> Photo:
    limit = min(max_pixels or MAX_PIXELS, MAX_PIXELS)
    _quieten_pillow()
    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        if isinstance(source, Path):
            with open_regular(source) as stream:
                return _decode(stream, source, limit, min_side)
        return _decode(BytesIO(source) if isinstance(source, bytes) else source, None, limit, min_side)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:  # parsers raise anything on a hostile file (Rust's panics are no Exception)
        raise InputError(f"{' '.join(label.splitlines())}: {_cause(exc)}") from exc


def _decode(stream: BinaryIO, path: Path | None, max_pixels: int, min_side: _MinSide | None) -> Photo:
    start = stream.tell()
    if not (head := stream.read(_HEAD)):
        raise UnsupportedFormatError("is empty (0 bytes); get a whole copy of the file")
    if path is not None:
        formats.refuse_by_name(path)
    stream.seek(start)

    def min_side_of(jpeg: Image.Image) -> int | None:
        upright = jpeg.size[::-1] if _orientation(jpeg) in SIDEWAYS else jpeg.size
        return None if min_side is None else min_side(*upright)

    jpeg = open_jpeg(read_whole(stream), max_pixels, min_side_of) if head.startswith(JPEG_START) else None
    with open_other(stream, head, path, max_pixels) if jpeg is None else jpeg.image as image:
        if jpeg is None:
            formats.require_size(image.width, image.height, max_pixels)
        if _note_pages.cache_info().currsize == 0 and formats.is_multi_page(image):
            _note_pages()
        frame = image.tile[0][1] if image.format == "GIF" and image.tile else None  # type: ignore[attr-defined]
        image.load()
        orientation = _orientation(image)
        rgb = to_rgb(image, frame)
        if (turn := _TURNS.get(orientation)) is not None:
            rgb = rgb.transpose(turn)
        if jpeg is None or jpeg.scale == 1:
            return Photo.in_full(rgb)
        return Photo.reduced(rgb, jpeg.size, jpeg.scale, orientation)


@functools.cache
def _note_pages() -> None:
    """Log once per process that only first pages count."""
    _log.warning("some images have several pages or frames; only the first of each is used")


def to_pixels(image: Image.Image | Photo, pre: Preprocessing) -> NDArray[np.uint8]:
    """Resize (antialiased) and crop an RGB image by the model's rule -> ``[H, W, 3]``, contiguous, owned by the caller.

    ``shorter-side`` has the geometry of torchvision's Resize + CenterCrop, but only the part inside the crop is
    resized: a quarter faster, and a panorama of any aspect ratio needs no memory for the rest. An image that already
    has the size of a ``stretch`` model stays as it is.
    """
    return np.array(resize(image, pre), dtype=np.uint8)


def resize(source: Image.Image | Photo, pre: Preprocessing) -> Image.Image:
    """``to_pixels`` as a Pillow image."""
    photo = source if isinstance(source, Photo) else Photo.in_full(source)
    image = photo.image
    if pre.interpolation == "nearest" and pre.resize_to is not None:
        # A box shifts the sampled points, which without antialiasing gives other pixels.
        size, (left, top) = _resized(*image.size, pre), _offset(*image.size, pre)
        if math.prod(size) <= _MOST_RESIZED:
            whole = image.resize(size, Image.Resampling.NEAREST)
            return whole.crop((left, top, left + pre.width, top + pre.height))
    box = photo.place(crop_box(*photo.size, pre))
    return image.resize((pre.width, pre.height), _RESAMPLE[pre.interpolation], box=box)


def crop_box(width: int, height: int, pre: Preprocessing) -> Box:
    """The centre crop of the resized image, in coordinates of the original."""
    if pre.resize_to is None:
        return 0.0, 0.0, width, height
    resized_width, resized_height = _resized(width, height, pre)
    left, top = _offset(width, height, pre)
    x, y = width / resized_width, height / resized_height
    right, bottom = min((left + pre.width) * x, width), min((top + pre.height) * y, height)
    return left * x, top * y, right, bottom


def _resized(width: int, height: int, pre: Preprocessing) -> tuple[int, int]:
    """Width and height before the crop; as in torchvision the longer side is cut to an integer."""
    if pre.resize_to is None:
        return pre.width, pre.height
    if pre.resize == "stretch":
        return pre.resize_to, pre.resize_to
    shorter = min(width, height)
    return pre.resize_to * width // shorter, pre.resize_to * height // shorter


def _offset(width: int, height: int, pre: Preprocessing) -> tuple[int, int]:
    """Left and top of the crop, in pixels of the resized image; round() takes a half to even."""
    left, top = (a - b for a, b in zip(_resized(width, height, pre), (pre.width, pre.height), strict=True))
    return (left // 2, top // 2) if pre.crop_offset == "floor" else (round(left / 2), round(top / 2))


def _quieten_pillow() -> None:
    """Ignore Pillow's warnings and log in this process: a flaw in a file is either an InputError here or harmless.

    A program that has set a level for its loggers keeps it. ``warnings.catch_warnings`` is not thread-safe, and files
    are decoded in threads.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    if (pillow := logging.getLogger("PIL")).level == logging.NOTSET:
        pillow.setLevel(logging.CRITICAL)


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation by which a decoded image is still to be turned; UnsupportedFormatError for a huge EXIF.

    A JPEG XL has an orientation of its own, by which its decoder turns it; that in EXIF is ignored (ISO/IEC 18181-2).
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):  # a JPEG in it is decoded as any other
        return None
    exif = len(image.info.get("exif") or b"") or len(image.info.get("Raw profile type exif", "")) // 2
    refuse_parts(exif, MOST_EXIF, "bytes of EXIF")
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        return None  # damaged metadata only costs the orientation


def _cause(exc: BaseException) -> str:
    match exc:
        case UnsupportedFormatError() | formats.TooManyPixelsError():
            return str(exc)
        case MemoryError():
            return "needs more memory than there is; scale it down first"
        case FileNotFoundError():
            return "no such file; check the path"
        case IsADirectoryError():
            return "is a folder, not an image; name a file"
        case PermissionError():
            return "cannot be read (permission denied); check its permissions"
        case OSError() if exc.strerror and not isinstance(exc, UnidentifiedImageError):
            return f"cannot be read ({exc.strerror}); name a file with an image"
        case UnidentifiedImageError():
            return f"is not an image of a known format, or its header is damaged; use {formats.KNOWN}"
        case Image.DecompressionBombError():
            return f"has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first"
        case IndexError() | struct.error():  # a header that ends too early
            return "cannot be decoded (it is cut off or damaged); get a whole copy of the file"
        case _:
            return f"cannot be decoded ({one_line(exc)}); get a whole copy of the file"
