"""Images in every format that is decoded: a changed file has the pixels of the original, or is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import load_pixels, open_rgb
from tests.fuzz.image_formats import Change, image_formats
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import cut, damage
from tests.fuzz.plain_readers import read_bmp, read_tiff

_SMALL = Preprocessing(24, 24, "stretch", None)
_JPEG_SLACK = 16
"""A scan that lacks fewer bytes than libjpeg reads ahead can pass: see ``images.jpeg``."""
_LAST_BLOCKS = 18
"""Height of a block of 16 x 16 with its neighbours' pixels, which smooth its colours."""


class ImageKind:
    """One format."""

    share = 8.0

    def __init__(self, name: str, suffix: str, encode: Callable[[], list[bytes]], change: Change) -> None:
        self.name = f"images/{name}"
        self._suffix = suffix
        self._encode = encode
        self._change = change

    def prepare(self, folder: Path) -> None:
        self._sound = self._encode()
        self._pixels = []
        for index, data in enumerate(self._sound):
            path = folder / f"{index}{self._suffix}"
            path.write_bytes(data)
            self._pixels.append(np.asarray(open_rgb(path)))

    def make(self, rng: random.Random, folder: Path) -> Case:
        index = rng.randrange(len(self._sound))
        sound, right = self._sound[index], self._pixels[index]
        expect = "any"
        match rng.randrange(10):
            case 0:
                data, what = cut(sound, rng), "cut"
                expect = "whole"
            case 1 | 2:
                data, what = damage(sound, rng), "damaged"
            case 3 | 4:
                data, what = damage(sound, rng, within=128), "head damaged"
            case _:
                data, what, expect = self._change(sound, rng)
        path = folder / f"image{self._suffix}"
        path.write_bytes(data)
        what = f"{self._suffix} {index}: {what}, {len(data)} bytes of {len(sound)}"

        def read() -> None:
            found = np.asarray(open_rgb(path))
            if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
                raise WrongError(f"pixels are {found.dtype} {found.shape}")
            if load_pixels(path, _SMALL).shape != (24, 24, 3):
                raise WrongError("load_pixels has another size")
            if np.array_equal(found, right) or data == sound:
                return
            if expect in ("right", "refused"):
                raise WrongError(f"{expect}: {_difference(found, right)}")
            if expect == "whole" and len(sound) - len(data) > _JPEG_SLACK:
                raise WrongError(f"cut off and accepted: {_difference(found, right)}")
            plain = read_tiff(data) if self._suffix == ".tif" else read_bmp(data) if self._suffix == ".bmp" else None
            if plain is None:
                _compare_with_pillow(data, found)
            elif found.shape != plain.shape or np.abs(found.astype(int) - plain).max() > 1:  # 16 bits are rounded
                raise WrongError(f"not what its bytes say: {_difference(found, plain)}")

        # A change that destroys pixels nobody looks at (of a second page) leaves the picture as it was.
        return Case(what, read, "right" if expect == "right" else "any")


def _difference(found: NDArray[np.uint8], right: NDArray[np.uint8]) -> str:
    if found.shape != right.shape:
        return f"{found.shape} instead of {right.shape}"
    wrong = np.abs(found.astype(int) - right)
    return f"{(wrong.max(axis=-1) > 0).mean():.1%} of the pixels differ, by up to {wrong.max()}"


def _compare_with_pillow(data: bytes, found: NDArray[np.uint8]) -> None:
    """WrongError if the file now is another one, which Pillow reads otherwise; UncheckedError where it has no say."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            plain = image.mode in ("RGB", "L", "1", "CMYK", "YCbCr") and not image.has_transparency_data
            if not plain or image.format in ("TIFF", "GIF", "BMP", "DIB"):
                raise UncheckedError
            ImageOps.exif_transpose(image, in_place=True)
            expected = np.asarray(image.convert("RGB"))
    except UncheckedError:
        raise
    except Exception as exc:
        raise UncheckedError from exc
    if data[:2] == b"\xff\xd8" and found.shape == expected.shape:
        # Damage may end a scan early. libjpeg then guesses its last blocks from what follows.
        rows, columns = np.nonzero((found != expected).any(axis=-1))  # the picture may be turned
        if len(rows) and max(np.ptp(rows), np.ptp(columns)) < 2 * _LAST_BLOCKS:
            raise UncheckedError
    if not np.array_equal(found, expected):
        raise WrongError(f"not what Pillow alone reads: {_difference(found, expected)}")


def image_kinds() -> list[ImageKind]:
    """One per format."""
    return [ImageKind(*row) for row in image_formats()]
