"""A JPEG is decoded if its picture is whole, whatever surrounds it, and refused if it is cut."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import open_rgb

END = b"\xff\xd9"
DATA = Path(os.environ.get("ALEXNET_DEPLOY_DATA", ""))
KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "full colour": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "4:2:2, restart markers": {"subsampling": 1, "restart_marker_blocks": 3},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
    "thumbnail": {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0" + b"\xff\xd8\xff\xdb\0\4\0\0\xff\xda\0\2\1" + END},
    "grey": {"mode": "L"},
    "progressive grey": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
}


def jpeg(mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    """A picture with detail in every block, so that each has data to lose."""
    pixels = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return jpeg_of(Image.fromarray(pixels).convert(mode), **options)


def jpeg_of(image: Image.Image, quality: int = 60, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    """What Pillow alone decodes."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_picture_is_decoded_whatever_follows_it(kind: str) -> None:
    content = jpeg(**KINDS[kind])  # type: ignore[arg-type]
    expected = pixels_of(content)
    for name, variant in {
        "as it is": content,
        "no end marker": content[:-2],
        "half an end marker": content[:-1],
        "zeros behind": content + bytes(1000),
        "zeros before the end marker": content[:-2] + bytes(20) + END,
        "another picture behind": content + jpeg(seed=1),
        "a video behind": content + b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(300_000),
        "fill bytes before markers": content[:-2] + b"\xff\xff\xff" + END,
    }.items():
        np.testing.assert_array_equal(np.asarray(open_rgb(variant)), expected, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_is_refused_with_and_without_an_end_marker(kind: str) -> None:
    content = jpeg(**KINDS[kind])  # type: ignore[arg-type]
    start = content.rindex(b"\xff\xc0" if "progressive" not in kind else b"\xff\xc2")
    # Nearer to the end than 40 bytes, the decoder's read-ahead can stand in for the last two blocks.
    for keep in range(start, len(content) - 40, 61):
        for end in (b"", END, content[-12:], jpeg(seed=1)):
            with pytest.raises(InputError):
                open_rgb(content[:keep] + end)


def test_a_picture_without_its_last_bytes_lacks_two_blocks_at_most() -> None:
    for kind in ("baseline", "progressive", "grey"):
        content = jpeg(**KINDS[kind])  # type: ignore[arg-type]
        expected = pixels_of(content).astype(int)
        for missing in range(1, 12):
            try:
                found = np.asarray(open_rgb(content[: -2 - missing] + END))
            except InputError:
                continue
            wrong = np.argwhere(np.abs(found - expected).max(axis=2) > 0)
            assert wrong.size == 0 or wrong.min(axis=0)[0] >= 70 - 70 % 16 - 16  # in the last row of blocks


def in_scans_of_one_component() -> tuple[bytes, list[bytes]]:
    """A baseline JPEG up to its first scan, and a scan for each of its three components, which has no other data.

    Each is the only scan of a grey JPEG, with the tables of the first.
    """
    channels = Image.open(io.BytesIO(jpeg())).convert("YCbCr").split()
    heads, scans = [], []
    for number, channel in enumerate(channels, 1):
        content = jpeg_of(channel)
        frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
        rest = content[frame + 2 + int.from_bytes(content[frame + 2 : frame + 4], "big") : scan]
        components = b"".join(bytes([component, 0x11, 0]) for component in (1, 2, 3))
        size = content[frame + 4 : frame + 9]
        heads.append(content[:frame] + b"\xff\xc0\0\x11" + size + b"\3" + components + rest)
        scans.append(b"\xff\xda\0\x08\1" + bytes([number, 0]) + b"\0\x3f\0" + content[scan + 10 : -2])
    return heads[0], scans


def test_every_component_has_a_scan() -> None:
    head, scans = in_scans_of_one_component()
    whole = head + b"".join(scans) + END
    np.testing.assert_array_equal(np.asarray(open_rgb(whole)), pixels_of(whole))
    for some in (scans[:1], scans[:2], scans[1:], scans[2:]):
        for end in (b"", END):
            with pytest.raises(InputError, match="cut off"):
                open_rgb(head + b"".join(some) + end)


def test_the_range_of_coefficients_in_a_baseline_scan_does_not_count() -> None:
    """It is that of a progressive scan; libjpeg warns of another one than 0 to 63, and reads all coefficients."""
    head, scans = in_scans_of_one_component()
    dc_alone = [scan[:7] + bytes(3) + scan[10:] for scan in scans]
    whole = head + b"".join(dc_alone) + END
    np.testing.assert_array_equal(np.asarray(open_rgb(whole)), pixels_of(head + b"".join(scans) + END))
    with pytest.raises(InputError, match="cut off"):
        open_rgb(head + b"".join(dc_alone[:2]) + END)


def test_an_arithmetic_coded_picture_is_decoded() -> None:
    """64 blocks in two bytes, of which two are a step lighter: the zeros behind them are left out, as encoders do.

    libjpeg's arithmetic decoder cannot wait for data: the way of the others would refuse such a file.
    """
    content = jpeg_of(Image.new("L", (64, 64)), quality=100)
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    rest = b"\xff\xc9" + content[frame + 2 : scan + 10] + b"\x01\x2b" + END
    tables = (bytes([table, 0x10, 0x10 + table, 5]) for table in range(4))
    conditioning = b"\xff\xcc\0\x12" + b"".join(tables)  # as it is without this segment, whose marker is like a frame's
    for arithmetic in (content[:frame] + rest, content[:frame] + conditioning + rest):
        found = np.asarray(open_rgb(arithmetic))
        np.testing.assert_array_equal(found, pixels_of(arithmetic))
        values, counts = np.unique(found[..., 0], return_counts=True)
        assert (values.tolist(), counts.tolist()) == ([128, 129], [62 * 64, 2 * 64])


def test_more_scans_than_any_encoder_makes_are_refused() -> None:
    """Each scan costs a pass over the picture: some bytes could keep a decoder busy for hours."""
    content = jpeg(mode="L", progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(InputError, match="more than 100 scans"):
        open_rgb(content[:-2] + content[last:-2] * 120 + END)


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "photos").is_dir(), reason="ALEXNET_DEPLOY_DATA names no folder with photos")
def test_no_photo_of_a_camera_is_refused() -> None:
    for photo in sorted((DATA / "photos").iterdir()):
        upright = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(open_rgb(photo)), np.asarray(upright))
