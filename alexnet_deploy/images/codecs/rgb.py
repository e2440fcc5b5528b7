"""A decoded image of any mode as RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from alexnet_deploy.images.codecs.grey import scale_grey
from alexnet_deploy.images.codecs.own.tiff import TiffPage, grey_of

_UNUSED_ALPHA = ("BMP", "DIB", "TGA", "ICO")
"""Formats in which many programs write 0 into an alpha that they do not use."""


def to_rgb(image: Image.Image, frame: tuple[int, int, int, int] | None = None) -> Image.Image:
    """``image`` in mode RGB, on white where it is transparent, and outside ``frame`` if given (a GIF's first frame)."""
    rgb = _converted(image)
    if frame is None or frame == (0, 0, *rgb.size):
        return rgb
    canvas = Image.new("RGB", rgb.size, "white")
    canvas.paste(rgb.crop(frame), frame[:2])
    return canvas


def _converted(image: Image.Image) -> Image.Image:
    if isinstance(image, TiffPage) and image.sample is not None:
        return grey_of(image).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _wide_grey(image)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if image.format in _UNUSED_ALPHA and not rgba.getchannel("A").getbbox():
            return rgba.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = scale_grey(values)
    if isinstance(key := image.info.get("transparency"), int):  # PNG: the value that is transparent
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # its library is optional in Pillow

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only if the image itself is changed
    return converted
