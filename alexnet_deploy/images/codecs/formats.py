"""The image formats: file names that count as images, and what to do about those that need more than Pillow."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from alexnet_deploy.images.codecs.jxl import jxl_size
from alexnet_deploy.images.codecs.parts import UnsupportedFormatError

# A list, because Pillow would also try formats that no photo has, one of which (EPS) starts Ghostscript.
_PILLOW_ALONE = ("WEBP", "BMP", "DIB")
KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, JPEG 2000, TGA, ICO, HEIC or JPEG XL"

_PILLOW_SUFFIXES = frozenset((
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
))  # fmt: skip
_TGA_SUFFIXES = frozenset((".icb", ".tga", ".vda", ".vst"))  # a format without a signature: its name alone tells it
_HEIC_SUFFIXES = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
_JXL_SUFFIXES = frozenset((".jxl",))
_RAW_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))  # fmt: skip
_OTHER_SUFFIXES = frozenset((
    ".dds", ".eps", ".exr", ".hdp", ".hdr", ".jxr", ".pcx", ".pict", ".psb", ".psd", ".qoi", ".sgi", ".svg", ".svgz",
    ".wdp", ".xcf",
))  # fmt: skip
SUFFIXES = (
    _PILLOW_SUFFIXES | _TGA_SUFFIXES | _HEIC_SUFFIXES | _JXL_SUFFIXES | _RAW_SUFFIXES | _OTHER_SUFFIXES
)  # fmt: skip
"""File names that count as images inside a folder (compared in lower case), decodable or not."""

RAW_ADVICE = "export it as JPEG or TIFF, for example with darktable or RawTherapee"
_SIGNATURES = {
    "HEIC": rb"....ftyp(?:hei[cfmsx]|hev[cmsx]|mif[12]|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "camera RAW": rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR",
    "Photoshop": rb"8BPS",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?(?:RADIANCE|RGBE)",
    "JPEG XR": rb"II\xbc",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^<]*)?(?:<!--(?:(?!-->).)*-->\s*)?(?:<!DOCTYPE[^>]*>\s*)?<svg\b",
}
"""First bytes of formats that Pillow alone does not decode."""
_IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|....ftyp|\0\0\0\x0c(?:jP  |JXL )"
    rb"|\0\0\x01\0|\xff\x0a|\xff\x4f\xff\x51|P[1-7]\s+(?:#|\d+\s+\d)|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Package:
    """A package from PyPI whose import adds a format to Pillow."""

    name: str
    module: str
    format: str


_PACKAGES = {
    "HEIC": _Package("pillow-heif", "pillow_heif", "HEIF"),
    "JPEG XL": _Package("pillow-jxl-plugin", "pillow_jxl", "JXL"),
}


class TooManyPixelsError(Image.DecompressionBombError):
    """The header says more pixels than are decoded; the message is the cause and the next step."""


_before_decoding: ContextVar[Callable[[int], None] | None] = ContextVar("before_decoding", default=None)


def refuse_size(width: int, height: int, max_pixels: int) -> None:
    """TooManyPixelsError for an image above ``max_pixels``."""
    if width * height > max_pixels:
        raise TooManyPixelsError(f"has {width} x {height} pixels, above the limit of {max_pixels}; scale it down first")


def require_size(width: int, height: int, max_pixels: int) -> None:
    """``refuse_size`` and ``announce`` for an image that is decoded in full, before anything of it is decoded."""
    refuse_size(width, height, max_pixels)
    announce(width * height)


def announce(pixels: int) -> None:
    """Tell the call of ``before_decoding`` for how many pixels memory will be taken."""
    if (call := _before_decoding.get()) is not None:
        call(pixels)


@contextmanager
def before_decoding(call: Callable[[int], None]) -> Iterator[None]:
    """In this thread, ``call`` with the number of pixels before an image is decoded; perhaps twice for one image."""
    token = _before_decoding.set(call)
    try:
        yield
    finally:
        _before_decoding.reset(token)


def name_of_format(head: bytes) -> str | None:
    """The format that the first bytes of a file are of, among those that Pillow alone does not decode."""
    return next((name for name, start in _SIGNATURES.items() if re.match(start, head, re.DOTALL)), None)


def starts_as_image(data: bytes) -> bool:
    """Whether ``data`` begins as an image file does, of a format that this package decodes or knows by name."""
    return _IMAGE_START.match(data) is not None


def refuse_by_name(path: Path) -> None:
    """UnsupportedFormatError if the file's name says camera RAW: most of these begin as a TIFF with a tiny preview."""
    if (suffix := path.suffix.lower()) in _RAW_SUFFIXES:
        raise UnsupportedFormatError(f"is a camera RAW file ({suffix[1:].upper()}), which is not decoded; {RAW_ADVICE}")


def pillow_formats(path: Path | None) -> tuple[str, ...]:
    """The formats that Pillow may try on a file of this name: those that no module here opens."""
    is_tga = path is not None and path.suffix.lower() in _TGA_SUFFIXES
    return (*_PILLOW_ALONE, "TGA") if is_tga else _PILLOW_ALONE


def open_with_package(kind: str, stream: BinaryIO, max_pixels: int) -> Image.Image:
    """Open a file of format ``kind`` (``name_of_format``); UnsupportedFormatError if no installed package reads it.

    TooManyPixelsError if its header says more than ``max_pixels``.
    """
    if (package := _PACKAGES.get(kind)) is None:
        if kind == "camera RAW":
            raise UnsupportedFormatError(f"is a camera RAW file, which is not decoded; {RAW_ADVICE}")
        raise UnsupportedFormatError(f"is {kind}, which is not decoded; export it as PNG or JPEG")
    try:
        module: Any = importlib.import_module(package.module)
    except ImportError as exc:
        raise UnsupportedFormatError(
            f"is {kind}, which the package {package.name} decodes; install it: pip install {package.name}"
        ) from exc
    if package.format not in Image.OPEN:
        module.register_heif_opener()
    if kind == "JPEG XL":  # pillow-heif tells the size before it decodes, pillow-jxl-plugin does not
        start = stream.tell()
        require_size(*jxl_size(stream), max_pixels)
        stream.seek(start)
    return Image.open(stream, formats=(package.format,))


def is_multi_page(image: Image.Image) -> bool:
    """Whether the file has more pages or frames than the first."""
    if image.format == "MPO":  # other views of one photo
        return False
    return bool(getattr(image, "is_animated", False)) if isinstance(image, ImageFile.ImageFile) else False
