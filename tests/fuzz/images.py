"""Images in every format that is decoded: a changed file has the pixels of the original, or is refused."""

from __future__ import annotations

import importlib
import importlib.util
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import load_pixels, open_rgb
from tests.fuzz import image_parts as parts
from tests.fuzz.image_parts import Part
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import cut, damage

_SMALL = Preprocessing(24, 24, "stretch", None)
_WIDTH, _HEIGHT = 60, 44
_JPEG_SLACK = 16
"""A scan that lacks fewer bytes than libjpeg reads ahead can pass: see ``images.jpeg``."""
_LAST_BLOCKS = 18
"""Height of a block of 16 x 16 with its neighbours' pixels, which smooth its colours."""

Change = Callable[[bytes, random.Random], tuple[bytes, str, str]]
"""A file changed as its format allows: the bytes, what was changed, and ``Case.expect``."""


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
            _compare_with_pillow(path, data, found)

        # A change that destroys pixels nobody looks at (of a second page) leaves the picture as it was.
        return Case(what, read, "right" if expect == "right" else "any")


def _difference(found: NDArray[np.uint8], right: NDArray[np.uint8]) -> str:
    if found.shape != right.shape:
        return f"{found.shape} instead of {right.shape}"
    wrong = np.abs(found.astype(int) - right)
    return f"{(wrong.max(axis=-1) > 0).mean():.1%} of the pixels differ, by up to {wrong.max()}"


def _compare_with_pillow(path: Path, data: bytes, found: NDArray[np.uint8]) -> None:
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
        rows, columns = np.nonzero((found != expected).any(axis=-1))
        if len(rows) and rows.min() >= len(found) - _LAST_BLOCKS and columns.min() >= found.shape[1] - 2 * _LAST_BLOCKS:
            raise UncheckedError
    if not np.array_equal(found, expected):
        raise WrongError(f"not what Pillow alone reads: {_difference(found, expected)}")


def _picture() -> Image.Image:
    """A picture with smooth and rough areas, in which every row and column differs."""
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    rng = np.random.default_rng(5)
    channels = (x * 4, y * 5, (x + y) * 2 + 20)
    pixels = np.stack([np.clip(c + rng.normal(0, 8, c.shape), 0, 255) for c in channels], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _with_alpha() -> Image.Image:
    image = _picture().convert("RGBA")
    image.putalpha(image.getchannel("R"))
    return image


def _grey16() -> Image.Image:
    return Image.fromarray(np.asarray(_picture().convert("L")).astype(np.uint16) * 257)


def _jpegs() -> list[bytes]:
    image = _picture()
    return [
        _saved(image, "JPEG", quality=90),
        _saved(image, "JPEG", quality=80, progressive=True),
        _saved(image, "JPEG", quality=80, restart_marker_blocks=3, subsampling=0),
        _saved(image, "JPEG", exif=_turned()),
        _saved(image.convert("L"), "JPEG"),
        _saved(image.convert("CMYK"), "JPEG"),
    ]


def _change_jpeg(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    segments, scan = parts.jpeg_parts(data)
    match rng.randrange(9):
        case 0:
            comment = Part(
                rng.choice((b"\xff\xfe", b"\xff\xe5", b"\xff\xef")), rng.randbytes(rng.choice((0, 9, 60_000)))
            )
            segments.insert(rng.randrange(1, len(segments) - 1), comment)
            return parts.jpeg(segments, scan), "a comment more", "right"
        case 1:
            end = rng.choice((b"", b"\xff\xd9", b"\0" * 40, b"\xff\xd9" + rng.randbytes(200), b"\xff"))
            return data[:-2] + end, "another end", "right"
        case 2 if scan.count(b"\xff\xda") == 0:
            at = rng.randrange(len(scan) * 3 // 4)
            return parts.jpeg(segments, scan[:at] + b"\xff\xd9"), "scan cut, end marker behind it", "refused"
        case 3:
            at = rng.randrange(len(scan))
            return parts.jpeg(segments, scan[:at] + damage(scan[at:], rng, within=40)), "scan damaged", "any"
        case 4:
            at = rng.randrange(len(scan) - 1)
            marker = bytes((255, rng.randrange(0xC0, 0x100)))
            return parts.jpeg(segments, scan[:at] + marker + scan[at:]), f"marker {marker.hex()} in the scan", "any"
        case 5:
            frame = next(part for part in segments if part.kind in (b"\xff\xc0", b"\xff\xc2"))
            frame.content = damage(frame.content, rng)
            return parts.jpeg(segments, scan), "frame header damaged", "any"
        case 6:
            fill = [
                Part(b"\xff" * rng.choice((1, 5)) + p.kind, p.content) if rng.random() < 0.3 else p for p in segments
            ]
            return parts.jpeg(fill, scan), "fill bytes before markers", "right"
        case _:
            what = parts.changed_parts(segments, rng)
            return parts.jpeg(segments, scan), what, "any"


def _pngs() -> list[bytes]:
    image = _picture()
    return [
        _saved(image, "PNG"),
        _saved(_with_alpha(), "PNG"),
        _saved(image.quantize(16), "PNG", transparency=3),
        _saved(_grey16(), "PNG"),
        _saved(image.convert("1"), "PNG"),
        _saved(image, "PNG", exif=_turned(), transparency=(10, 20, 30)),
    ]


def _change_png(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    chunks = parts.png_parts(data)
    first = next(i for i, chunk in enumerate(chunks) if chunk.kind == b"IDAT")
    match rng.randrange(9):
        case 0:
            text = rng.choice((b"Comment\0" + b"x" * rng.choice((1, 3_000_000)), rng.randbytes(30), b""))
            chunks.insert(rng.randrange(1, first + 1), Part(rng.choice((b"tEXt", b"prVt", b"iTXt", b"zTXt")), text))
            return parts.png(chunks), "a text more", "any"
        case 1:
            chunks.insert(rng.randrange(1, len(chunks)), Part(b"prVt", rng.randbytes(20)))
            kept = chunks[-1].kind == b"IEND" and sum(c.kind == b"IDAT" for c in chunks) == 1
            return parts.png(chunks), "a private chunk more", "right" if kept else "any"
        case 2:
            at = rng.randrange(len(chunks[first].content))
            halves = [Part(b"IDAT", chunks[first].content[:at]), Part(b"IDAT", chunks[first].content[at:])]
            chunks[first : first + 1] = halves
            return parts.png(chunks), "IDAT in two", "right"
        case 3:
            at = rng.randrange(len(chunks[first].content) * 3 // 4)
            chunks[first].content = chunks[first].content[:at]
            return parts.png(chunks), "IDAT cut, checksum right", "refused"
        case 4:
            at = data.index(b"IDAT") + 4 + rng.randrange(len(chunks[first].content))
            return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :], "bit of IDAT", "refused"
        case 5:
            chunks[0].content = damage(chunks[0].content, rng)
            return parts.png(chunks), "IHDR damaged", "any"
        case 6:
            return data + rng.randbytes(rng.choice((1, 500))), "more behind the end", "right"
        case _:
            what = parts.changed_parts(chunks, rng)
            return parts.png(chunks), what, "any"


def _webps() -> list[bytes]:
    image = _picture()
    return [
        _saved(image, "WEBP", quality=80),
        _saved(image, "WEBP", lossless=True),
        _saved(_with_alpha(), "WEBP", quality=80, exif=_turned()),
        _saved(image, "WEBP", save_all=True, append_images=[image.rotate(30)]),
    ]


def _change_webp(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    chunks = parts.riff_parts(data)
    if rng.random() < 0.2:
        return data + rng.randbytes(9), "more behind the end", "any"
    what = parts.changed_parts(chunks, rng)
    return parts.riff(chunks), what, "any"


def _tiffs() -> list[bytes]:
    image = _picture()
    grey = _grey16()
    return [
        _saved(image, "TIFF"),
        *(_saved(image, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        _saved(grey, "TIFF"),
        _saved(image.convert("1"), "TIFF", compression="group4"),
        _saved(image.quantize(16), "TIFF"),
        _saved(_with_alpha(), "TIFF"),
        _saved(image.convert("CMYK"), "TIFF"),
        _saved(Image.fromarray(np.asarray(grey).astype(np.float32) / 65535), "TIFF"),
        _saved(image, "TIFF", save_all=True, append_images=[image.rotate(30)]),
    ]


def _change_tiff(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    changed, what = parts.changed_tiff(data, rng)
    return changed, what, "any"


def _gifs() -> list[bytes]:
    image = _picture()
    return [
        _saved(image.quantize(64), "GIF"),
        _saved(image.quantize(64), "GIF", interlace=0, transparency=5),
        _saved(image, "GIF", save_all=True, append_images=[image.rotate(30)], duration=40),
    ]


def _change_gif(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    table = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    match rng.randrange(4):
        case 0:
            comment = b"!\xfe" + b"\x05hello" * rng.choice((1, 2000)) + b"\0"
            return data[:table] + comment + data[table:], "a comment more", "right"
        case 1:
            return data + rng.randbytes(30), "more behind the end", "right"
        case 2:
            return data[:-1], "no trailer", "right"
        case _:
            return data[:table] + damage(data[table:], rng, within=40), "frame header damaged", "any"


def _bmps() -> list[bytes]:
    image = _picture()
    masks = bytearray(_saved(image.convert("RGBA"), "BMP"))
    return [_saved(image, "BMP"), bytes(masks), _saved(image.quantize(16), "BMP"), _saved(image.convert("1"), "BMP")]


def _change_header(size: int) -> Change:
    def change(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
        return damage(data, rng, within=size), "header damaged", "any"

    return change


def _ppms() -> list[bytes]:
    image = _picture()
    text = " ".join(map(str, np.asarray(image).ravel())).encode()
    wide = np.asarray(image).astype(">u2") * 257
    size = b"%d %d" % image.size
    return [
        _saved(image, "PPM"), _saved(image.convert("L"), "PPM"), _saved(image.convert("1"), "PPM"),
        b"P3\n" + size + b"\n255\n" + text, b"P6\n" + size + b"\n65535\n" + wide.astype(">u2").tobytes(),
        _saved(Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255), "PPM"),
    ]  # fmt: skip


def _change_ppm(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    if rng.random() < 0.4:
        return (
            data[:3] + b"# a comment\n" + data[3:],
            "a comment more",
            "any" if data[:2] in (b"Pf", b"PF") else "right",
        )
    return _change_header(16)(data, rng)


def _change_boxes(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    found = parts.box_parts(data)
    match rng.randrange(5):
        case 0:
            return data + parts.boxes([Part(b"free", rng.randbytes(20))]), "a free box more", "right"
        case 1:
            at = rng.randrange(len(found))
            inner = damage(found[at].content, rng)
            found[at] = Part(found[at].kind, inner)
            return parts.boxes(found), "a box damaged", "any"
        case _:
            what = parts.changed_parts(found, rng)
            return parts.boxes(found), what, "any"


def _heics() -> list[bytes]:
    module: Any = importlib.import_module("pillow_heif")
    module.register_heif_opener()
    return [_saved(_picture(), "HEIF", quality=80)]


def _jxls() -> list[bytes]:
    importlib.import_module("pillow_jxl")
    return [_saved(_picture(), "JXL"), _saved(_picture(), "JXL", lossless=True)]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def image_kinds() -> list[ImageKind]:
    """One per format; HEIC and JPEG XL where a package can write them."""
    found: list[tuple[str, str, Callable[[], list[bytes]], Change]] = [
        ("jpeg", ".jpg", _jpegs, _change_jpeg),
        ("png", ".png", _pngs, _change_png),
        ("webp", ".webp", _webps, _change_webp),
        ("tiff", ".tif", _tiffs, _change_tiff),
        ("gif", ".gif", _gifs, _change_gif),
        ("bmp", ".bmp", _bmps, _change_header(70)),
        ("ppm", ".ppm", _ppms, _change_ppm),
        (
            "jpeg2000",
            ".jp2",
            lambda: [_saved(_picture(), "JPEG2000"), _saved(_with_alpha(), "JPEG2000")],
            _change_boxes,
        ),
        ("avif", ".avif", lambda: [_saved(_picture(), "AVIF"), _saved(_with_alpha(), "AVIF")], _change_boxes),
        (
            "tga",
            ".tga",
            lambda: [_saved(_picture(), "TGA"), _saved(_with_alpha(), "TGA", rle=True)],
            _change_header(18),
        ),
        ("ico", ".ico", lambda: [_saved(_with_alpha(), "ICO", sizes=[(32, 32), (16, 16)])], _change_header(60)),
    ]
    if _is_installed("pillow_heif"):
        found.append(("heic", ".heic", _heics, _change_boxes))
    if _is_installed("pillow_jxl"):
        found.append(("jxl", ".jxl", _jxls, _change_boxes))
    return [ImageKind(*row) for row in found]
