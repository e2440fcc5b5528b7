"""Files of very many small parts: refused in one line before Pillow goes over them, while real files pass.

The hostile ones are short here: with the megabytes that a server accepts, each took seconds to hours, or gigabytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.parts import MOST_EXIF, MOST_PARTS
from alexnet_deploy.images.decode import open_rgb
from tests.helpers.many_parts import (
    GREY,
    NOISE,
    big_tiff,
    box,
    codestream,
    gif,
    icon,
    icon_of,
    jp2,
    jpeg,
    layered,
    pieces,
    saved,
    segment,
    strips,
)
from tests.helpers.pictures import png, tiff

MANY = 2 * MOST_PARTS
PROFILE = (b"iCCP", b"profile\0\0" + zlib.compress(bytes(1000)))
EXIF, PHOTOSHOP = b"Exif\0\0", b"Photoshop 3.0\0"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg markers": (lambda: jpeg(last=b"\xff\x01\0" * MANY, progressive=True), "segments"),
    "jpeg comments": (lambda: jpeg(segment(0xFE) * MANY), "segments"),
    "jpeg application data": (lambda: jpeg(segment(0xE5, b"x") * MANY), "segments"),
    "jpeg exif": (lambda: jpeg(segment(0xE1, EXIF + b"x") * 65), "64 segments of EXIF"),
    "jpeg large exif": (lambda: jpeg(segment(0xE1, EXIF + bytes(65000)) * 17), f"{MOST_EXIF} bytes of EXIF"),
    "jpeg photoshop": (lambda: jpeg(segment(0xED, PHOTOSHOP) * 65), "64 segments of Photoshop"),
    "jpeg zeros between": (lambda: jpeg(segment(0xFE) + bytes(70_000)), "65536 bytes between its segments"),
    "jpeg fill bytes": (lambda: jpeg(b"\xff" * 70_000), "65536 bytes between its segments"),
    "jpeg in reserved segments": (lambda: jpeg(segment(0xF0, bytes(40_000)) * 2), "bytes between its segments"),
    "jpeg ended before": (lambda: jpeg(b"\xff\xd9" + bytes(70_000)), "it has no picture"),
    "png chunks": (lambda: png(GREY, *[(b"tIME", b"")] * MANY), "chunks"),
    "ico entries": (lambda: icon(257, saved("PNG")), "256 pictures"),
    "ico chunks": (lambda: icon(1, png(GREY, *[(b"tIME", b"")] * MANY)), "chunks"),
    "ico chunks of all": (lambda: icon_of(*[png(GREY, *[(b"tIME", b"")] * (MOST_PARTS // 2))] * 3), "chunks"),
    "ico profiles": (lambda: icon(1, png(GREY, PROFILE, PROFILE)), "several colour profiles"),
    "gif comment": (lambda: gif(b"!\xfe" + b"\x01a" * MANY + b"\0"), "blocks"),
    "gif comments": (lambda: gif(b"!\xfe\x01a\0" * MANY), "blocks"),
    "gif application data": (lambda: gif(b"!\xff" + b"\x01a" * MANY + b"\0"), "blocks"),
    "gif pixels": (lambda: gif(b",\0\0\0\0\x40\0\x40\0\0\x08" + b"\x01\0" * MANY + b"\0"), "blocks"),
    "tiff tags": (lambda: big_tiff(MANY), "10000 tags"),
    "tiff strips": (lambda: strips(MANY, 1), "strips"),
    **{
        f"tiff values of {tag}": (
            lambda tag=tag: tiff(GREY, photometric=1, tags={tag: (3, *[1] * 200_000)}),  # type: ignore[misc]
            f"196608 values in its tag {tag}",
        )
        for tag in (258, 274, 282, 320, 338, 339, 340, 700)
    },
    "ppm comment": (lambda: b"P6\n#" + b"x" * 70_000 + b"\n1 1 255 abc", "no whole header within 64 KiB"),
    "ppm blanks": (lambda: b"P6" + b" " * 70_000 + b"1 1 255 abc", "no whole header within 64 KiB"),
    "ppm comments": (lambda: b"P3\n1 1 255\n" + b"#\n" * MANY + b"1 2 3", "10000 comments"),
    "jpeg 2000 boxes": (lambda: jp2(outside=box(b"free") * MANY), "10000 boxes"),
    "jpeg 2000 boxes inside": (lambda: jp2(inside=box(b"free") * MANY), "10000 boxes"),
    "jpeg 2000 boxes inside those": (lambda: jp2(inside=box(b"res ", box(b"free") * MANY)), "10000 boxes"),
    "jpeg 2000 segments": (lambda: codestream(segment(0x64, b"\0\1") * MANY), "segments"),
    "jpeg 2000 unknown segment": (lambda: codestream(b"\xff\x30"), "segment FF30"),
    "jpeg 2000 layers": (lambda: layered(101), "100 layers"),
    "jpeg xl boxes": (
        lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxlc", b"\xff\x0a" + bytes(20)) + box(b"free") * MANY,
        "10000 boxes",
    ),
    **{
        f"exif of {kind}": (lambda kind=kind: saved(kind, exif=EXIF + bytes(MOST_EXIF + 1)), "bytes of EXIF")  # type: ignore[misc]
        for kind in ("PNG", "WEBP")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_very_many_parts_is_refused(name: str) -> None:
    make, reason = HOSTILE[name]
    if "jpeg xl" in name:
        pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed: extra `formats`")
    with pytest.raises(InputError, match=reason) as raised:
        open_rgb(make(), name="x")
    assert "\n" not in str(raised.value)


SOUND: dict[str, Callable[[], bytes]] = {
    "jpeg of a phone": lambda: jpeg(
        segment(0xE1, EXIF + b"MM\0*\0\0\0\x08\0\0" + bytes(9000))
        + b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((part, 40)) + bytes(60_000)) for part in range(1, 41))
        + segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) * 200
    ),
    "jpeg with thermal data": lambda: jpeg(segment(0xE1, b"FLIR\0" + bytes(500)) * 255),
    "jpeg with long exif": lambda: jpeg(segment(0xE1, EXIF + bytes(60_000)) * 16),
    "jpeg with fill bytes": lambda: jpeg(b"\xff" * 4096),
    "png in small pieces": lambda: (lambda whole: whole[:33] + pieces(whole, 256) + whole[-12:])(png(NOISE)),
    "png with two profiles": lambda: png(NOISE, PROFILE, PROFILE),
    "png with much text": lambda: png(NOISE, *[(b"tEXt", b"key\0" + bytes((65 + n % 26,))) for n in range(5000)]),
    "tiff with a strip per row": lambda: strips(5000, 8),
    "tiff with a large tag": lambda: tiff(NOISE, photometric=2, tags={37724: (1, *[1] * 300_000)}),
    "jpeg 2000 with boxes": lambda: jp2(outside=box(b"uuid", bytes(500)) * 500),
    **{
        f"jpeg 2000 with {options}": lambda options=options: saved("JPEG2000", np.tile(NOISE, (8, 8, 1)), **options)  # type: ignore[misc]
        for options in (
            {},
            {"codeblock_size": (32, 32), "quality_layers": list(range(50, 1, -2))},
            {"precinct_size": (128, 128)},
            {"precinct_size": (256, 256), "tile_size": (256, 256), "progression": "RPCL"},
            {"irreversible": True, "no_jp2": True, "tile_size": (64, 64)},
        )
    },
    "ppm with comments": lambda: b"P6\n" + b"# from a scanner\n" * 100 + b"64 64\n255\n" + NOISE.tobytes(),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_real_file_of_many_parts_is_decoded(name: str) -> None:
    content = SOUND[name]()
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_rgb(content)), expected)


def test_restart_markers_are_no_parts() -> None:
    content = saved("JPEG", np.tile(NOISE, (16, 16, 1)), restart_marker_blocks=1, subsampling=0)
    assert sum(content.count(bytes((0xFF, kind))) for kind in range(0xD0, 0xD8)) > MOST_PARTS
    assert open_rgb(content).size == (1024, 1024)
    with pytest.raises(InputError, match="it is cut off"):
        open_rgb(content[: len(content) // 2] + b"\xff\xd9")


@pytest.mark.parametrize(
    "blocks",
    [
        b"!\xfe" + b"\x05hello" * 2000 + b"\0",
        b"!\xff\x0bXMP DataXMP" + b"".join(b"%c" % 99 + b"x" * 99 for _ in range(9000)) + b"\0",
        b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + b"!\xfe\x05hello\0" * 50,
        b"!\xf9\x04\0\x05\0\0\0" + bytes(100_000),
    ],
    ids=["comment", "xmp", "loop and comments", "junk"],
)
def test_what_stands_before_the_frame_of_a_gif_does_not_change_it(blocks: bytes) -> None:
    np.testing.assert_array_equal(np.asarray(open_rgb(gif(blocks)))[..., 0], GREY)


def test_the_last_transparent_colour_before_the_frame_of_a_gif_counts() -> None:
    seven, nine, none = b"!\xf9\x04\1\0\0\x07\0", b"!\xf9\x04\1\0\0\x09\0", b"!\xf9\x04\0\0\0\0\0"
    for blocks in (seven, seven + none, none + seven, nine + seven):
        found = np.asarray(open_rgb(gif(blocks)))[..., 0]
        np.testing.assert_array_equal(found, np.where(GREY == 7, 255, GREY))


@pytest.mark.parametrize(
    "options",
    [{"codeblock_size": (4, 4)}, {"codeblock_size": (4, 16), "no_jp2": True}, {"tile_size": (16, 16)}],
    ids=["small blocks", "thin blocks", "small tiles"],
)
def test_jpeg_2000_whose_records_weigh_more_than_its_pixels_is_refused(options: dict[str, object]) -> None:
    """Blocks of 4 x 4 took 138 bytes per pixel, tiles of 16 x 16 took 59; blocks of 64 x 64 take 27."""
    content = saved("JPEG2000", np.zeros((1000, 1000, 4), np.uint8), **options)
    with pytest.raises(InputError, match="unusually small code blocks, precincts or tiles"):
        open_rgb(content)
    if "no_jp2" not in options:  # boxes that say less do not help
        at = content.index(b"ihdr") + 4
        with pytest.raises(InputError, match="unusually small"):
            open_rgb(content[:at] + struct.pack(">II", 16, 16) + content[at + 8 :])


def test_jpeg_2000_tile_with_its_own_style_is_refused() -> None:
    """Its main header is usual; the header of a tile says blocks of 4 x 4."""
    content = saved("JPEG2000", np.zeros((1400, 1400, 4), np.uint8), no_jp2=True)
    start = content.index(b"\xff\x52")
    style = bytearray(content[start : start + 2 + int.from_bytes(content[start + 2 : start + 4])])
    style[10:12] = 0, 0
    tile = content.index(b"\xff\x90")
    part = bytearray(content[tile : tile + 12])
    part[6:10] = bytes(4)  # it goes to the end
    with pytest.raises(InputError, match="unusually small"):
        open_rgb(content[:tile] + bytes(part) + bytes(style) + content[tile + 12 :])


def rotated_exif() -> bytes:
    """An EXIF that turns the picture, with the exposures of 100,000 pictures in it."""
    entries = struct.pack("<HHHIIHHII", 2, 274, 3, 1, 6, 34665, 4, 1, 38)
    return (
        b"II*\0\x08\0\0\0"
        + entries
        + bytes(4)
        + struct.pack("<HHHII", 1, 33434, 5, 100_000, 56)
        + bytes(4)
        + bytes(800_000)
    )


def tiff_with_exif() -> bytes:
    content = bytearray(tiff(GREY, photometric=1, tags={274: (3, 6), 34665: (4, 0)}))
    while len(content) % 4:
        content += b"\0"
    struct.pack_into("<I", content, content.index(struct.pack("<HHI", 34665, 4, 1)) + 8, len(content))
    content += struct.pack("<HHHII", 1, 33434, 5, 100_000, len(content) + 18) + bytes(4) + bytes(800_000)
    return bytes(content)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiff(GREY, photometric=1, tags={277: (4, 10_000_000)}),
        lambda: tiff(NOISE, photometric=2, tags={277: (4, 10_000_000)}),
        tiff_with_exif,
        *(lambda kind=kind: saved(kind, exif=EXIF + rotated_exif()) for kind in ("PNG", "WEBP")),
        lambda: jpeg(
            b"".join(segment(0xE1, EXIF + rotated_exif()[at : at + 60_000]) for at in range(0, 800_000, 60_000))
        ),
    ],
    ids=["samples of grey", "samples of colour", "tiff exif", "png exif", "webp exif", "jpeg exif"],
)
def test_a_number_or_metadata_in_a_small_file_make_no_object_of_each_value(make: Callable[[], bytes]) -> None:
    content = make()
    tracemalloc.start()
    try:
        with contextlib.suppress(InputError):
            assert open_rgb(content).size == (64, 64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(content) + (4 << 20)  # a Python object of each value: 80 MB for the numbers, 15 for an EXIF


def test_pillow_logs_nothing_about_the_data_of_a_client(caplog: pytest.LogCaptureFixture) -> None:
    content = tiff(NOISE, photometric=2, tags={277: (4, 60_000)})
    for level, records in ((logging.NOTSET, 0), (logging.ERROR, 1)):  # a program that wants them gets them
        logging.getLogger("PIL").setLevel(level)
        caplog.clear()
        with pytest.raises(InputError, match="TIFF layout"):
            open_rgb(content)
        assert len(caplog.records) == records
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
