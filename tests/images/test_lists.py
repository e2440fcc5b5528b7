"""What is a list of images, in which encoding, and what is none."""

from __future__ import annotations

import codecs
import io
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.lists import names_of_list
from alexnet_deploy.images.sources import find_sources

NAMES = ["photos/a.jpg", "/", "фото/я.jpg", "写真.jpg", "😀.png"]
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def listed(data: bytes, *, piece: int | None = None) -> list[str]:
    """The names of a list that comes in pieces of that many bytes."""

    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(piece or size)

    return list(names_of_list(Slow(data), "list"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_tells_the_encoding(encoding: str, end: str) -> None:
    data = MARKED[encoding] + "".join(name + end for name in NAMES).encode(encoding)
    for piece in (None, 1, 3):
        assert listed(data, piece=piece) == NAMES
    assert listed(data.removesuffix(end.encode(encoding))) == NAMES


@given(names=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1)))
def test_any_names_in_utf_16(names: list[str]) -> None:
    assert listed("\n".join(["first.jpg", *names]).encode("utf-16")) == ["first.jpg", *names]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["photos/a.jpg\r\n", "a.jpg\n/\n", "写真/一.jpg\n"])
def test_utf_16_without_a_mark_names_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, text: str
) -> None:
    (tmp_path / "a").touch()  # a name of one character, as each seems to be
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="list: is UTF-16 text without a byte order mark; save the list as UTF-8"):
        listed(text.encode(encoding))


def test_names_of_one_character_between_nul_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcdef":
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert listed(b"a\0b\0c\0d\0e\0f\0") == list("abcdef")


def test_control_characters_in_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "\x01 \x1b[31m.jpg"
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for end in ("\n", "\0"):
        assert listed(f"gone.jpg{end}{name}{end}".encode()) == ["gone.jpg", name]


OTHER = {
    "random": random.Random(0).randbytes(20_000),
    "zeros": bytes(1000),
    "TGA": b"\0\0\x02" + bytes(9) + b"\x10\0\x10\0\x18\0" + b"abc" * 256,
    "PCX": b"\x0a\x05\x01\x08" + b"ab" * 100,
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(9) + b"ab" * 100,
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0" + b"ab" * 100,
}


@pytest.mark.parametrize("kind", OTHER)
def test_binary_data_is_no_list(kind: str) -> None:
    with pytest.raises(InputError, match=r"^list: is neither a list nor an image of a known format; "):
        listed(OTHER[kind])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.ico", "a.webp", "a.tif", "a.gif"])
def test_an_image_is_no_list(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (20, 20), (200, 60, 50)).save(tmp_path / name)
    with pytest.raises(InputError, match="is an image, not a list of images; name it as one of `images`"):
        list(find_sources([], from_file=tmp_path / name))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\r\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_list_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError, match="list: names no image"):
        list(find_sources([], from_file=tmp_path / "list"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(InputError, match=r"^standard input: (is empty|names no image)"):
        list(find_sources(["-"]))


def test_damaged_utf_16_is_refused() -> None:
    with pytest.raises(InputError, match="list: begins as UTF-16 text, but is none"):
        listed(codecs.BOM_UTF16_LE + b"a\0\0\xd8b\0")


def test_no_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match=r"^`images` -: the standard input is a terminal; pipe"):
        find_sources(["-"])
    with pytest.raises(UsageError, match=r"^`from_file` -: the standard input is a terminal; pipe"):
        find_sources([], from_file=Path("-"))


def test_a_line_has_an_end() -> None:
    """Else anything without a line break, of any size, would be read into memory as one name."""
    longest = "x" * (64 << 10)
    assert listed(f"a.jpg\n{longest}\nb.jpg".encode()) == ["a.jpg", longest, "b.jpg"]
    with pytest.raises(InputError, match="list: a line has more than 64 KiB; is it a list of images"):
        listed(f"a.jpg\n{longest}x".encode())


def test_a_name_between_nul_bytes_may_end_as_a_line_of_windows() -> None:
    assert listed(b"a.jpg\r\0b.jpg\0") == ["a.jpg\r", "b.jpg"]
