"""Each format of an image, and changes as it allows them: the bytes, what was changed, what to expect."""

from __future__ import annotations

import importlib
import importlib.util
import random
from collections.abc import Callable

from tests.fuzz import image_parts as parts
from tests.fuzz import sound_images
from tests.fuzz.image_parts import Part
from tests.fuzz.mutate import damage

Change = Callable[[bytes, random.Random], tuple[bytes, str, str]]


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


def _change_webp(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    chunks = parts.riff_parts(data)
    if rng.random() < 0.2:
        return data + rng.randbytes(9), "more behind the end", "any"
    what = parts.changed_parts(chunks, rng)
    return parts.riff(chunks), what, "any"


def _change_tiff(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    changed, what = parts.changed_tiff(data, rng)
    return changed, what, "any"


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


def _change_header(size: int) -> Change:
    def change(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
        return damage(data, rng, within=size), "header damaged", "any"

    return change


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


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def image_formats() -> list[tuple[str, str, Callable[[], list[bytes]], Change]]:
    """Name, suffix, encoder and change of each format; HEIC and JPEG XL where a package can write them."""
    found: list[tuple[str, str, Callable[[], list[bytes]], Change]] = [
        ("jpeg", ".jpg", sound_images.jpegs, _change_jpeg),
        ("png", ".png", sound_images.pngs, _change_png),
        ("webp", ".webp", sound_images.webps, _change_webp),
        ("tiff", ".tif", sound_images.tiffs, _change_tiff),
        ("gif", ".gif", sound_images.gifs, _change_gif),
        ("bmp", ".bmp", sound_images.bmps, _change_header(70)),
        ("ppm", ".ppm", sound_images.ppms, _change_ppm),
        ("jpeg2000", ".jp2", lambda: sound_images.both("JPEG2000"), _change_boxes),
        ("avif", ".avif", lambda: sound_images.both("AVIF"), _change_boxes),
        ("tga", ".tga", lambda: sound_images.both("TGA"), _change_header(18)),
        ("ico", ".ico", sound_images.icos, _change_header(60)),
    ]
    if _is_installed("pillow_heif"):
        found.append(("heic", ".heic", sound_images.heics, _change_boxes))
    if _is_installed("pillow_jxl"):
        found.append(("jxl", ".jxl", sound_images.jxls, _change_boxes))
    return found
