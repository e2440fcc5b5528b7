"""TIFF: the first page, for sample layouts that Pillow reads wrongly or not at all.

Pillow picks its decoder from a table of layouts. Where the table has no entry or a wrong one, the page is announced to
it as a layout of the same size in memory, and ``grey_of`` gives the samples their real meaning.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from alexnet_deploy.images.codecs.formats import RAW_ADVICE, require_size
from alexnet_deploy.images.codecs.grey import scale_grey
from alexnet_deploy.images.codecs.parts import MOST_PARTS, UnsupportedFormatError, most_parts, refuse_parts

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")  # as Pillow has them
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 254, 258, 259, 262, 277, 284
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_COLORMAP, _SUB_IFDS, _EXTRA, _FORMAT, _SMIN, _SMAX, _SUBSAMPLING = 320, 330, 338, 339, 340, 341, 530
_DNG_VERSION = 50706
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, _YCBCR = 0, 1, 3, 6
_RAW, _LZW = 1, 5
_SHORT = 3  # the type of values of 16 bits
_KIND = {1: "u", 2: "i", 3: "f"}
_MOST_VALUES = 3 << 16
"""Values in a tag that is read: a colour map of 16 bits. Pillow makes a Python object of each."""
_STRIPS, _TILES, _XMP = 273, 324, 700
_READ = frozenset(
    (_SUBFILE, 256, 257, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, 274, _SAMPLES, 278, 282, 283, _PLANAR, 296, _COLORMAP,
     _TILE_WIDTH, _TILE_LENGTH, _EXTRA, _FORMAT, _SMIN, _SMAX, _SUBSAMPLING, _XMP)
)  # fmt: skip
_BYTES = (1, 2, 7)  # types of values that stay bytes
_SMALLEST_STRIP = 256  # bytes, on average, without compression
# libtiff returns samples in the machine's byte order, the table says that of the file
_NATIVE = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS", "I;32B": "I;32N"}


class TiffPage(TiffImagePlugin.TiffImageFile):
    """A TIFF file at its first page."""

    sample: str | None = None
    """numpy's name for the real type of the samples of a grey page; None: they mean what Pillow says."""
    alpha: int = 0
    """Number of the kind of a grey page's second sample: 0 none, 1 premultiplied alpha, 2 alpha."""
    white_is_zero = False
    limits: tuple[float, float] | None = None

    def load_end(self) -> None:
        """Leave it to the caller to turn the picture: Pillow would read every value of all metadata first."""
        self._size = self.im.size
        self.getexif()  # while its file is at hand

    def _setup(self) -> None:
        tags = self.tag_v2
        try:
            photometric, samples = tags[_PHOTOMETRIC], tags.get(_SAMPLES, 1)
        except (KeyError, ValueError) as exc:  # missing, or several values; Pillow would take white for 0
            raise ValueError("it does not say whether 0 is black or white (PhotometricInterpretation)") from exc
        if samples > 0xFFFF:  # Pillow refuses fewer, but only later
            raise SyntaxError("more samples per pixel than a TIFF can have")
        bits = tuple(tags.get(_BITS, (1,)))[:samples]
        if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            self._set_up_grey(photometric, bits * (samples if len(bits) == 1 else 1))
        elif photometric == _PALETTE and max(tags.get(_COLORMAP, (256,))) < 256:
            tags[_COLORMAP] = tuple(value * 257 for value in tags[_COLORMAP])  # many programs write 8 bits
        subsampled = photometric == _YCBCR and tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1)
        if tags.get(_COMPRESSION, _RAW) == _RAW and (subsampled or (tags.get(_PLANAR) == 2 and samples > 1)):
            tags[_COMPRESSION] = _LZW  # any but raw: libtiff reads the file's own, and gets these right
        super()._setup()
        for index, tile in enumerate(self.tile):
            if tile.codec_name == "libtiff" and isinstance(tile.args, tuple):
                rawmode, *others = tile.args
                self.tile[index] = tile._replace(args=(_NATIVE.get(rawmode, rawmode), *others))

    def _set_up_grey(self, photometric: int, bits: tuple[int, ...]) -> None:
        tags = self.tag_v2
        kind = _KIND.get(max(tags.get(_FORMAT, (1,))), "")
        extra = tuple(tags.get(_EXTRA, ()))
        if len(bits) == 1 and bits[0] in (8, 16, 32) and kind and (kind, bits[0]) != ("f", 8):
            self.sample = f"{kind}{bits[0] // 8}"
            tags[_FORMAT] = (3 if self.sample == "f4" else 2 if bits[0] == 32 else 1,)
        elif bits == (12,) and kind == "u":
            self.sample, self.limits = "u2", (0.0, 4095.0)
        elif len(bits) == 2 and tags.get(_PLANAR, 1) == 2:
            # Pillow would take the second plane for one of colour, and would read an alpha of 0 everywhere.
            raise SyntaxError("grey and another sample in planes")
        elif len(bits) == 2 and extra in ((1,), (2,)) and kind == "u":
            if bits == (8, 8):
                tags[_EXTRA] = (2,)
            elif bits == (16, 16):
                tags[_SAMPLES], tags[_BITS], tags[_FORMAT] = 1, (32,), (2,)
                del tags[_EXTRA]
                if tags.get(_COMPRESSION, _RAW) == _RAW:
                    tags[_COMPRESSION] = _LZW  # Pillow's own decoder would swap the two, if the file is big-endian
            else:
                return
            self.sample, self.alpha = f"u{bits[0] // 8}", extra[0]
        else:
            return
        self.white_is_zero = photometric == _WHITE_IS_ZERO
        tags[_PHOTOMETRIC] = _BLACK_IS_ZERO
        if _SMIN in tags and _SMAX in tags:
            low, high = (float(np.ravel(tags[tag])[0]) for tag in (_SMIN, _SMAX))
            self.limits = (low, high) if low < high else self.limits


def open_tiff(stream: BinaryIO, max_pixels: int) -> TiffPage:
    """The first page, not yet decoded; UnsupportedFormatError for an unusual layout and for camera RAW.

    TooManyPixelsError if the page or one of its tiles is above ``max_pixels``: a tile is decoded whole, however small
    the page.
    """
    _refuse_many(stream)
    try:
        page = TiffPage(stream)
    except (SyntaxError, KeyError) as exc:
        raise UnsupportedFormatError(
            "has a TIFF layout that is not decoded, or a damaged header; export it as grey or RGB with 8 or 16 bits"
        ) from exc
    if _DNG_VERSION in page.tag_v2 or (page.tag_v2.get(_SUBFILE, 0) & 1 and _SUB_IFDS in page.tag_v2):
        raise UnsupportedFormatError(f"is a camera RAW file, whose first page is a preview; {RAW_ADVICE}")
    tile_width, tile_height = (int(np.max(page.tag_v2.get(tag, 0))) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    require_size(max(page.width, tile_width), max(page.height, tile_height), max_pixels)
    return page


def _refuse_many(stream: BinaryIO) -> None:
    """UnsupportedFormatError if the first page has more tags, values in one or strips than a photo has."""
    start = stream.tell()
    head = stream.read(16)
    order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
    is_big = head[2:3] == b"+"  # as Pillow asks
    wide = 8 if is_big else 4  # bytes of an offset, and of a count of values

    def number(data: bytes) -> int:
        return int.from_bytes(data, order)

    size = stream.seek(0, os.SEEK_END)
    stream.seek(min(number(head[8:16] if is_big else head[4:8]), size))
    count = number(stream.read(8 if is_big else 2))
    refuse_parts(count, MOST_PARTS, "tags")
    is_raw, strips = True, 0
    for _ in range(count):
        entry = stream.read(4 + 2 * wide)
        tag, kind, values, value = number(entry[:2]), number(entry[2:4]), number(entry[4:-wide]), entry[-wide:]
        if values > size:
            continue  # it has not so many bytes, so Pillow leaves the tag out
        if tag in _READ and not (tag == _XMP and kind in _BYTES):
            refuse_parts(values, _MOST_VALUES, f"values in its tag {tag}")
        elif tag in (_STRIPS, _TILES):
            strips = max(strips, values)
        if tag == _COMPRESSION:
            is_raw = number(value[:2] if kind == _SHORT else value) == _RAW
    if is_raw:  # Pillow makes several objects of each
        refuse_parts(strips, most_parts(size, _SMALLEST_STRIP), "strips")
    stream.seek(start)


def grey_of(page: TiffPage) -> Image.Image:
    """A decoded grey page (one with ``sample``) as an image of mode L, on white if it has alpha."""
    assert page.sample is not None
    stored = np.asarray(page)
    samples = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("="))).view(page.sample)
    if page.alpha and samples.ndim == 2:
        samples = samples.reshape(*stored.shape, 2)
    grey = scale_grey(samples[..., 0] if page.alpha else samples, limits=page.limits, inverted=page.white_is_zero)
    premultiplied = page.alpha == 1
    if not page.alpha or (premultiplied and page.white_is_zero):
        return Image.fromarray(grey)  # ink times its alpha, taken from white: it lies on white already
    return Image.fromarray(_on_white(grey, samples[..., 1], premultiplied))


def _on_white(grey: NDArray[np.uint8], alpha: NDArray[np.unsignedinteger], premultiplied: bool) -> NDArray[np.uint8]:
    share = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    over = grey * (1 if premultiplied else share) + 255.0 * (1 - share)
    return np.rint(np.clip(over, 0, 255)).astype(np.uint8)
