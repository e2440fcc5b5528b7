"""Image file -> uint8 RGB pixels: the only definition of decode, orientation, resize and crop.

Training, calibration, inference and evaluation all use it, so all see the same pixels.
"""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, one_line

# Legend: H height, W width, C channel (RGB)

MAX_PIXELS = 178_956_970
"""Larger images are refused. This is Pillow's own limit, which holds here even if a program has lifted Pillow's."""

# A list, because Pillow would also try formats that no photo has, one of which (EPS) starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

_QUIET: tuple[Any, ...] = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_STRIP = 1 << 16  # pixels scaled at a time in float64: a large scan at once would need gigabytes
_WHITE = {"I": 65535.0, "F": 1.0}
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_pixels(path: Path, pre: Preprocessing, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of an image file, written into ``out`` if given; raises InputError as ``open_rgb`` does."""
    resized = resize(open_rgb(path), pre)
    if out is None:
        return np.array(resized, dtype=np.uint8)
    out[...] = np.asarray(resized)
    return out


def open_rgb(source: Path | BinaryIO | bytes, *, name: str | None = None) -> Image.Image:
    """Decode the first frame of an image: upright by its EXIF orientation, mode RGB, detached from its file.

    Transparency is laid over white, as browsers and photo viewers show it: without the alpha channel the hidden colour
    would show, mostly black. 16-bit grey is scaled, not clipped. 32-bit integers count as 16-bit and floats as
    0..1; if a value lies outside, the scale goes from the darkest to the lightest.

    Raises InputError (``name`` or the path, and the cause) for anything that is not a whole image: missing,
    unreadable, empty, cut off, of another kind, or above ``MAX_PIXELS``.
    """
    _ignore_pillow_warnings()
    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            image.load()
            _turn_upright(image)
            return _to_rgb(image)
    except Exception as exc:  # Pillow's parsers raise anything on a hostile file; no file may stop a run
        raise InputError(f"{' '.join(label.splitlines())}: {_cause(exc)}") from exc


def to_pixels(image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    """Resize (antialiased) and crop an RGB image by the model's rule -> ``[H, W, 3]``, contiguous, owned by the caller.

    ``shorter-side`` has the geometry of torchvision's Resize + CenterCrop, but only the part inside the crop is
    resized: a quarter faster, and a panorama of any aspect ratio needs no memory for the rest. An image that already
    has the size of a ``stretch`` model stays as it is.
    """
    return np.array(resize(image, pre), dtype=np.uint8)


def resize(image: Image.Image, pre: Preprocessing) -> Image.Image:
    """``to_pixels`` as a Pillow image."""
    box = None if pre.resize == "stretch" else crop_box(image.width, image.height, pre)
    return image.resize((pre.width, pre.height), _RESAMPLE[pre.interpolation], box=box)


def crop_box(width: int, height: int, pre: Preprocessing) -> tuple[float, float, float, float]:
    """The centre crop of the resized image, in coordinates of the original (left, top, right, bottom)."""
    assert pre.resize_to is not None  # Preprocessing checks it
    shorter = min(width, height)
    # torchvision's rounding: the longer side is cut to an integer, the offset rounds half to even.
    resized_width = pre.resize_to * width // shorter
    resized_height = pre.resize_to * height // shorter
    left, top = round((resized_width - pre.width) / 2), round((resized_height - pre.height) / 2)
    x, y = width / resized_width, height / resized_height
    right, bottom = min((left + pre.width) * x, width), min((top + pre.height) * y, height)
    return left * x, top * y, right, bottom


def _ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings in this process: a flaw in a file is either an InputError here or harmless.

    ``warnings.catch_warnings`` is not thread-safe, and files are decoded in threads.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        return  # the image itself is decoded; damaged metadata only costs the orientation


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WHITE or image.mode.startswith("I;16"):
        return _scaled_grey(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    low, high, white = float(values.min()), float(values.max()), _WHITE.get(image.mode, 65535.0)
    if low >= 0.0 and high <= white:
        low, high = 0.0, white
    scale = 255.0 / ((high - low) or 1.0)
    grey = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for i in range(0, flat.size, _STRIP):
        grey[i : i + _STRIP] = np.rint((flat[i : i + _STRIP].astype(np.float64) - low) * scale)
    return Image.fromarray(grey.reshape(values.shape))


def _cause(exc: Exception) -> str:
    match exc:
        case FileNotFoundError():
            return "no such file; check the path"
        case IsADirectoryError():
            return "is a folder, not an image; name a file"
        case PermissionError():
            return "cannot be read (permission denied); check its permissions"
        case UnidentifiedImageError():
            known = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000"
            return f"is not an image of a known format, or its header is damaged; use {known}"
        case Image.DecompressionBombError():
            return f"has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first"
        case _:
            return f"cannot be decoded ({one_line(exc)}); get a whole copy of the file"
