"""Sound images of each format, in the variants that its writer knows."""

from __future__ import annotations

import importlib
import importlib.util
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 60, 44


def picture() -> Image.Image:
    """A picture with smooth and rough areas, in which every row and column differs."""
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    rng = np.random.default_rng(5)
    channels = (x * 4, y * 5, (x + y) * 2 + 20)
    pixels = np.stack([np.clip(c + rng.normal(0, 8, c.shape), 0, 255) for c in channels], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def with_alpha() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(image.getchannel("R"))
    return image


def grey16() -> Image.Image:
    return Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)


def jpegs() -> list[bytes]:
    image = picture()
    return [
        saved(image, "JPEG", quality=90),
        saved(image, "JPEG", quality=80, progressive=True),
        saved(image, "JPEG", quality=80, restart_marker_blocks=3, subsampling=0),
        saved(image, "JPEG", exif=turned()),
        saved(image.convert("L"), "JPEG"),
        saved(image.convert("CMYK"), "JPEG"),
    ]


def pngs() -> list[bytes]:
    image = picture()
    return [
        saved(image, "PNG"),
        saved(with_alpha(), "PNG"),
        saved(image.quantize(16), "PNG", transparency=3),
        saved(grey16(), "PNG"),
        saved(image.convert("1"), "PNG"),
        saved(image, "PNG", exif=turned(), transparency=(10, 20, 30)),
    ]


def webps() -> list[bytes]:
    image = picture()
    return [
        saved(image, "WEBP", quality=80),
        saved(image, "WEBP", lossless=True),
        saved(with_alpha(), "WEBP", quality=80, exif=turned()),
        saved(image, "WEBP", save_all=True, append_images=[image.rotate(30)]),
    ]


def tiffs() -> list[bytes]:
    image = picture()
    grey = grey16()
    return [
        saved(image, "TIFF"),
        *(saved(image, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        saved(grey, "TIFF"),
        saved(image.convert("1"), "TIFF", compression="group4"),
        saved(image.quantize(16), "TIFF"),
        saved(with_alpha(), "TIFF"),
        saved(image.convert("CMYK"), "TIFF"),
        saved(Image.fromarray(np.asarray(grey).astype(np.float32) / 65535), "TIFF"),
        saved(image, "TIFF", save_all=True, append_images=[image.rotate(30)]),
    ]


def gifs() -> list[bytes]:
    image = picture()
    return [
        saved(image.quantize(64), "GIF"),
        saved(image.quantize(64), "GIF", interlace=0, transparency=5),
        saved(image, "GIF", save_all=True, append_images=[image.rotate(30)], duration=40),
    ]


def bmps() -> list[bytes]:
    image = picture()
    masks = bytearray(saved(image.convert("RGBA"), "BMP"))
    return [saved(image, "BMP"), bytes(masks), saved(image.quantize(16), "BMP"), saved(image.convert("1"), "BMP")]


def ppms() -> list[bytes]:
    image = picture()
    text = " ".join(map(str, np.asarray(image).ravel())).encode()
    wide = np.asarray(image).astype(">u2") * 257
    size = b"%d %d" % image.size
    return [
        saved(image, "PPM"), saved(image.convert("L"), "PPM"), saved(image.convert("1"), "PPM"),
        b"P3\n" + size + b"\n255\n" + text, b"P6\n" + size + b"\n65535\n" + wide.astype(">u2").tobytes(),
        b"P6\n" + size + b"\n254\n" + np.minimum(np.asarray(image), 254).tobytes(),
        b"P2\n" + size + b"\n1000\n" + " ".join(map(str, np.asarray(image.convert("L")).ravel())).encode(),
        saved(Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255), "PPM"),
    ]  # fmt: skip


def icos() -> list[bytes]:
    return [saved(with_alpha(), "ICO", sizes=[(32, 32), (16, 16)])]


def heics() -> list[bytes]:
    module: Any = importlib.import_module("pillow_heif")
    module.register_heif_opener()
    return [saved(picture(), "HEIF", quality=80)]


def jxls() -> list[bytes]:
    importlib.import_module("pillow_jxl")
    return [saved(picture(), "JXL"), saved(picture(), "JXL", lossless=True)]


def both(name: str) -> list[bytes]:
    return [saved(picture(), name), saved(with_alpha(), name)]
