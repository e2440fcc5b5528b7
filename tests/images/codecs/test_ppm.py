"""PPM and its family: numbers as text and any largest value, as Pillow reads them but without a Python loop."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.own.ppm import open_ppm
from alexnet_deploy.images.decode import open_rgb

LARGEST = st.one_of(st.sampled_from([1, 2, 254, 255, 256, 1023, 4095, 65534, 65535]), st.integers(1, 65535))
BLANKS = st.lists(st.sampled_from([" ", "\n", "\t", "\r\n", "# a comment\n"]), max_size=3).map(
    lambda found: "\n" + "".join(found)
)


@given(kind=st.sampled_from([2, 3, 5, 6]), largest=LARGEST, blanks=BLANKS, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_values_are_those_of_pillow(kind: int, largest: int, blanks: str, seed: int) -> None:
    shape = (5, 7, 3) if kind in (3, 6) else (5, 7)
    values = np.random.default_rng(seed).integers(0, largest + 1, shape)
    content = f"P{kind}\n{blanks}7{blanks}5{blanks}{largest}\n".encode()
    if kind in (2, 3):
        content += b"\n".join(b"%d" % value for value in values.ravel())
    else:
        content += values.astype("u1" if largest < 256 else ">u2").tobytes()
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(open_ppm(content, 35)), np.asarray(image))
    with pytest.raises(InputError):
        open_rgb(content[:-12])
    with pytest.raises(InputError, match="7 x 5 pixels, above the limit of 34"):
        open_rgb(content, max_pixels=34)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P3\n1 1\n255\n", "it is cut off"),
        (b"P3\n1 1\n255\n \n", "it is cut off"),
        (b"P3\n1 1\n255\n1 2 x", "it is cut off"),
        (b"P3\n1 1\n255\n1 -2 3", "it is cut off"),
        (b"P3\n1 1\n255\n1 2 300", "too large"),
        (b"P3\n1 1\n255\n1 2 4294967297", "too long"),
        (b"P5\n1 1\n1000\n5", "it is cut off"),
        (b"P6\n0 1\n99\nabc", "it has no pixels"),
        (b"P6\n1 1\n0\nabc", "it has no pixels"),
        (b"P6\n1 1\n65536\nabcabc", "no largest value"),
        (b"P6\n1 1 x\nabc", "its header is damaged"),
    ],
)
def test_what_is_damaged_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_rgb(content)


@pytest.mark.parametrize("byte", [b"#", b" ", b"\n", b"\x00"])
@pytest.mark.parametrize("head", [b"P4 2000 400 ", b"P5 400 300 255\n", b"P6 400 300 255\n", b"P6\n400 300\n65535\n"])
def test_pixels_are_no_part_of_the_header(head: bytes, byte: bytes) -> None:
    """A picture that begins with 64 KiB of bytes that could be blanks or a comment."""
    content = head + byte * 720_000
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(open_rgb(content)), np.asarray(image.convert("RGB")))
