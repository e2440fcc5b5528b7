"""What Pillow reads wrongly, or not at all: layouts of BMP, PNG and GIF, and formats that need a package."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.images import decode
from alexnet_deploy.images.decode import open_rgb
from tests.helpers.pictures import GREY, RGB, bmp, gif_within, png, png_chunk, tiff

MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F)),
    "555": (16, (0x7C00, 0x3E0, 0x1F)),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "BGRX": (32, (0xFF0000, 0xFF00, 0xFF)),
    "RGBX": (32, (0xFF, 0xFF00, 0xFF0000)),
    "BGRA": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "2-10-10-10": (32, (0x3FF << 20, 0x3FF << 10, 0x3FF, 3 << 30)),
}


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", MASKS)
def test_bmp_with_any_masks(name: str, header: int) -> None:
    bits, masks = MASKS[name]
    for top_down in (False, True):
        pixels = np.asarray(open_rgb(bmp(RGB, bits, masks, header, top_down=top_down)))
        levels = [mask.bit_count() for mask in masks[:3]]
        # a channel of n bits has steps of 255 / (2 ** n - 1), and is at most half a step off
        assert (np.abs(pixels.astype(int) - RGB).max((0, 1)) <= [127 // (2**n - 1) + 1 for n in levels]).all()


def test_bmp_alpha_counts_unless_it_is_zero_everywhere() -> None:
    bits, masks = MASKS["BGRA"]
    np.testing.assert_array_equal(np.asarray(open_rgb(bmp(RGB, bits, masks, 56, alpha=0))), RGB)
    alpha = np.full(GREY.shape, 255)
    alpha[0, 0] = 0
    assert np.asarray(open_rgb(bmp(RGB, bits, masks, 56, alpha=alpha)))[0, :2].tolist() == [
        [255, 255, 255],
        RGB[0, 1].tolist(),
    ]
    with pytest.raises(InputError, match="mask of a channel has gaps"):
        open_rgb(bmp(RGB, 32, (0xFF0000, 0xF0F00, 0xFF), 40))
    with pytest.raises(InputError, match="cut off"):
        open_rgb(bmp(RGB, bits, masks, 56)[:-1])


def test_png_with_large_metadata_is_read() -> None:
    noise = np.random.default_rng(0).bytes(1_500_000)
    for chunk in (
        (b"iCCP", b"printer\0\0" + zlib.compress(noise)),
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2_000_000))),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    ):
        np.testing.assert_array_equal(np.asarray(open_rgb(png(RGB, chunk))), RGB)


def test_a_transparent_colour_of_16_bits_is_compared_with_all_16() -> None:
    wide = np.array([[0, 1, 0x1234, 0x1235]], ">u2")
    found = np.asarray(open_rgb(png(wide, (b"tRNS", b"\x12\x34"))))[0, :, 0]
    assert found.tolist() == [0, 0, 255, 0x12]
    colours = np.array([[[0x1234, 0xABCD, 0xFF], [0x1234, 0xABCD, 0xFE]]], ">u2")
    found = np.asarray(open_rgb(png(colours, (b"tRNS", b"\x12\x34\xab\xcd\x00\xff"))))
    assert found[0].tolist() == [[255, 255, 255], [0x12, 0xAB, 0]]


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_png_whose_checksum_is_wrong_is_refused(kind: bytes) -> None:
    content = bytearray(png(RGB))
    at = content.index(kind)
    content[at + 12] ^= 1
    with pytest.raises(InputError):
        open_rgb(bytes(content))


def test_png_cut_anywhere_is_refused() -> None:
    content = png(RGB)
    for keep in range(8, len(content) - 12, 37):
        for end in (b"", png_chunk(b"IEND", b"")):
            with pytest.raises(InputError):
                open_rgb(content[:keep] + end)


@pytest.mark.parametrize("background", [0, 3])
@pytest.mark.parametrize("transparency", [None, 0, 2])
def test_a_gif_frame_smaller_than_its_canvas_lies_on_white(transparency: int | None, background: int) -> None:
    frame = Image.fromarray(RGB).quantize(8)
    expected = np.full((40, 50, 3), 255, np.uint8)
    expected[7:27, 5:29] = np.asarray(frame.convert("RGB"))
    if transparency is not None:
        expected[7:27, 5:29][np.asarray(frame) == transparency] = 255
    content = gif_within(frame, (50, 40), (5, 7), transparency, background)
    np.testing.assert_array_equal(np.asarray(open_rgb(content)), expected)


@pytest.mark.parametrize("name", ["a.tga", "a.ico", "a.j2k", "a.dib"])
def test_formats_that_pillow_reads_itself(tmp_path: Path, name: str) -> None:
    size = (16, 16)
    Image.new("RGB", size, (200, 60, 30)).save(tmp_path / name)
    assert np.abs(np.asarray(open_rgb(tmp_path / name)).astype(int) - (200, 60, 30)).max() <= 3  # JPEG 2000 is lossy


def test_tga_counts_by_its_name_only(tmp_path: Path) -> None:
    """Almost any bytes are a TGA header."""
    Image.new("RGB", (9, 9)).save(tmp_path / "a.tga")
    with pytest.raises(InputError, match="not an image of a known format"):
        open_rgb((tmp_path / "a.tga").read_bytes())


STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is stored under each orientation of EXIF."""

UNREAD = {
    "a.NEF": (tiff(RGB, photometric=2), r"camera RAW file \(NEF\), which is not decoded; export it as JPEG or TIFF"),
    "b.jpg": (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera RAW file, which is not decoded"),
    "c.raf": (b"FUJIFILMCCD-RAW ", r"camera RAW file \(RAF\)"),
    "d.psd": (b"8BPS\0\1", "Photoshop, which is not decoded; export it as PNG or JPEG"),
    "e.svg": (b'<?xml version="1.0"?>\n<!-- a > b -->\n<svg xmlns="x"/>', "SVG, which is not decoded"),
    "f.exr": (b"v/1\1\2\0\0\0", "OpenEXR, which is not decoded"),
    "g.hdr": (b"#?RADIANCE\n", "Radiance HDR, which is not decoded"),
}
PACKAGES = {
    "pillow_heif": ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pip install pillow-heif"),
    "pillow_jxl": ("JPEG XL", b"\xff\x0a\0\0", "pip install pillow-jxl-plugin"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_decoded_is_named_with_the_next_step(tmp_path: Path, name: str) -> None:
    content, reason = UNREAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        open_rgb(tmp_path / name)


@pytest.mark.parametrize("module", PACKAGES)
def test_without_its_package_a_format_names_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, content, fix = PACKAGES[module]
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(InputError, match=f"is {kind}, which the package .* decodes; install it: {fix}"):
        open_rgb(content)


def packed_bmp(data: bytes, size: tuple[int, int], bits: int = 8, *, dib: bool = False) -> bytes:
    """A BMP of runs with the palette: colour i is (i, 10 i, 255 - i), modulo 256."""
    palette = b"".join(bytes([255 - i, 10 * i % 256, i, 0]) for i in range(1 << bits))  # blue first
    kind = {8: 1, 4: 2}[bits]
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, kind, len(data), 0, 0, 0, 0)
    start = struct.pack("<2sIII", b"BM", 54 + len(palette) + len(data), 0, 54 + len(palette))
    return (b"" if dib else start) + header + palette + data


@pytest.mark.parametrize("dib", [False, True], ids=["bmp", "dib"])
@pytest.mark.parametrize(
    ("bits", "data", "rows"),
    [
        (8, b"\3\7\2\5\0\0" + b"\0\5abcde\0" + b"\0\0" + b"\5\1\0\1", ["7,7,7,5,5", "97,98,99,100,101", "1,1,1,1,1"]),
        (8, b"\5\1\5\2\0\0\5\2\0\0\5\3", ["1,1,1,1,1", "2,2,2,2,2", "3,3,3,3,3"]),  # too long, and no end
        (8, b"\2\6\0\0\0\0\0\2\3\0\2\7\0\1", ["6,6,0,0,0", "0,0,0,0,0", "0,0,0,7,7"]),  # an empty row, a step
        (8, b"\0\2\1\2\1\4\0\1", ["0,0,0,0,0", "0,0,0,0,0", "0,4,0,0,0"]),
        (4, b"\5\x12\0\0\0\5\x34\x56\x70\0\0\0\2\x9a\0\1", ["1,2,1,2,1", "3,4,5,6,7", "9,10,0,0,0"]),
    ],
    ids=["runs and single pixels", "no end", "an empty row", "a step up", "four bits"],
)
def test_bmp_of_runs(bits: int, data: bytes, rows: list[str], dib: bool) -> None:
    """By hand after the format's description; the first row of the file is the lowest of the picture."""
    wanted = [[[i, 10 * i % 256, 255 - i] for i in map(int, row.split(","))] for row in reversed(rows)]
    content = packed_bmp(data, (5, 3), bits, dib=dib)
    assert np.asarray(open_rgb(content)).tolist() == wanted
    for cut in range(len(content) - len(data), len(content) - 2):
        with pytest.raises(InputError, match="cut off"):
            open_rgb(content[:cut])


@pytest.mark.parametrize("offset", [0, 54], ids=["none", "without the palette"])
def test_bmp_of_runs_whose_offset_leaves_out_the_palette(offset: int) -> None:
    content = bytearray(packed_bmp(b"\4\7\0\1", (4, 1)))
    expected = open_rgb(bytes(content)).tobytes()
    struct.pack_into("<I", content, 10, offset)
    assert open_rgb(bytes(content)).tobytes() == expected


def test_bmp_of_runs_with_other_bits_than_its_kind() -> None:
    content = bytearray(packed_bmp(b"\4\7\0\1", (4, 1)))
    struct.pack_into("<H", content, 28, 4)
    with pytest.raises(InputError, match="damaged"):
        open_rgb(bytes(content))


def test_bmp_of_runs_in_a_dib_of_few_colours() -> None:
    content = bytearray(packed_bmp(b"\4\1\0\1", (4, 1), dib=True))
    struct.pack_into("<I", content, 32, 2)
    few = bytes(content[: 40 + 2 * 4]) + b"\4\1\0\1"
    assert open_rgb(few).tobytes() == bytes([1, 10, 254]) * 4


@pytest.mark.parametrize("data", [b"\3\7\0\2\xff\0\1\5\0\1", b"\0\2\xff\xff\1\5"], ids=["right", "up"])
def test_bmp_of_runs_with_a_step_out_of_the_picture(data: bytes) -> None:
    found = np.asarray(open_rgb(packed_bmp(data, (4, 2))))
    assert set(found[..., 0].ravel().tolist()) <= {0, 7}, "nothing stands where nothing was written"


@pytest.mark.parametrize(
    ("data", "size", "cause"),
    [
        (b"\1\7" * 2_100_000, (3000, 3000), "has more than 2000000 runs of pixels"),
        (b"\0\2\0\0" * 2_100_000, (3000, 3000), "has more than 2000000 runs of pixels"),
        (b"\1\7\0\1", (100_000, 100_000), "has more than .* pixels|pixels, above the limit"),
        (b"\1\7\0\1", (0, 5), "damaged"),
        (b"\1\7\0\1", (-5, 5), "damaged"),
    ],
    ids=["tiny runs", "steps to nowhere", "too large", "no width", "negative width"],
)
def test_bmp_of_runs_that_is_hostile(data: bytes, size: tuple[int, int], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        open_rgb(packed_bmp(data, size))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif_is_decoded_upright(orientation: int) -> None:
    """The file says twice how it is turned, in its container and in its EXIF: it is turned once."""
    pytest.importorskip("pillow_heif", reason="pillow_heif is not installed: extra `formats`").register_heif_opener()
    upright = Image.new("RGB", (64, 48), (200, 60, 30))
    upright.paste((20, 40, 220), (0, 0, 32, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    back = STORED.get(orientation)
    stored = upright if back is None else upright.transpose(back)
    stored.save(stream, "HEIF", quality=95, exif=exif.tobytes())
    found = np.asarray(open_rgb(stream.getvalue())).astype(int)
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(upright)).mean() < 3  # lossy: the edge between the colours blurs
    with pytest.raises(InputError):
        open_rgb(stream.getvalue()[: len(stream.getvalue()) // 2])


@pytest.mark.parametrize(
    ("save", "notes"),
    [("TIFF", 1), ("GIF", 1), ("PNG", 1), ("WEBP", 1), ("JPEG", 0)],
)
def test_more_pages_are_noted_once(save: str, notes: int, caplog: pytest.LogCaptureFixture) -> None:
    decode._note_pages.cache_clear()
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    pages[0].save(stream, save, **({} if save == "JPEG" else {"save_all": True, "append_images": pages[1:]}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            open_rgb(stream.getvalue())
    assert [r.getMessage() for r in caplog.records] == [
        "some images have several pages or frames; only the first of each is used"
    ] * notes


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_sockets_and_devices_are_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have some hundred bytes
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.jpg")
        for name, kind in (("pipe.jpg", "FIFO"), ("socket.jpg", "socket"), ("/dev/zero", "device")):
            with pytest.raises(InputError, match=f"it is a {kind}, not a plain file"):
                open_rgb(Path(name))


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError(), SystemError("x"), struct.error("x"), OverflowError()]
)
def test_whatever_a_decoder_raises_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(InputError, match=r"^image: "):
        open_rgb(b"BM")
