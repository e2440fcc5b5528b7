"""Sound images of each format, and changes as the format allows them: its bytes, what was changed, what to expect."""

from __future__ import annotations

import importlib
import importlib.util
import random
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz import image_parts as parts
from tests.fuzz.image_parts import Part
from tests.fuzz.mutate import damage

Change = Callable[[bytes, random.Random], tuple[bytes, str, str]]
_WIDTH, _HEIGHT = 60, 44


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
            kind = rng.choice((b"tEXt", b"tEXt", b"prVt", b"iTXt", b"zTXt"))
            chunks.insert(rng.randrange(1, first + 1), Part(kind, text))
            sound = kind == b"prVt" or (kind == b"tEXt" and text.startswith(b"Comment"))
            return parts.png(chunks), f"{len(text)} bytes of text more", "right" if sound else "any"
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
        b"P6\n" + size + b"\n254\n" + np.minimum(np.asarray(image), 254).tobytes(),
        b"P2\n" + size + b"\n1000\n" + " ".join(map(str, np.asarray(image.convert("L")).ravel())).encode(),
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


def _both(name: str) -> list[bytes]:
    return [_saved(_picture(), name), _saved(_with_alpha(), name)]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def image_formats() -> list[tuple[str, str, Callable[[], list[bytes]], Change]]:
    """Name, suffix, encoder and change of each format; HEIC and JPEG XL where a package can write them."""
    found: list[tuple[str, str, Callable[[], list[bytes]], Change]] = [
        ("jpeg", ".jpg", _jpegs, _change_jpeg),
        ("png", ".png", _pngs, _change_png),
        ("webp", ".webp", _webps, _change_webp),
        ("tiff", ".tif", _tiffs, _change_tiff),
        ("gif", ".gif", _gifs, _change_gif),
        ("bmp", ".bmp", _bmps, _change_header(70)),
        ("ppm", ".ppm", _ppms, _change_ppm),
        ("jpeg2000", ".jp2", lambda: _both("JPEG2000"), _change_boxes),
        ("avif", ".avif", lambda: _both("AVIF"), _change_boxes),
        ("tga", ".tga", lambda: _both("TGA"), _change_header(18)),
        ("ico", ".ico", lambda: [_saved(_with_alpha(), "ICO", sizes=[(32, 32), (16, 16)])], _change_header(60)),
    ]
    if _is_installed("pillow_heif"):
        found.append(("heic", ".heic", _heics, _change_boxes))
    if _is_installed("pillow_jxl"):
        found.append(("jxl", ".jxl", _jxls, _change_boxes))
    return found
