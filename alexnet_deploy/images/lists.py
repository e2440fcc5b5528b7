"""Lists of images: names on lines or between NUL bytes, read as they come."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.formats import starts_as_image

MAX_NAME_BYTES = 64 << 10
"""Of one line of a list: Linux allows paths of 4096 bytes, and signed addresses have a few thousand."""
_BLOCK = 1 << 16
_MARK_BYTES = 4  # of the longest byte order mark
_MARKS = {  # UTF-32 first: it begins with the mark of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_UNMARKED = re.compile(rb"(?:[\t\n\r -~]\0){4}|(?:\0[\t\n\r -~]){4}")
"""Text in UTF-16 without a mark: at least ".jpg" is ASCII."""
_BINARY = re.compile(rb"\A\0|\0\0|[\x01-\x08\x0b\x0e-\x1f]")
_TRIED = 100  # names of a list that does not look like one


def names_of_list(stream: BinaryIO, label: str, *, start: bytes = b"") -> Iterator[str]:
    """The names of a list that begins with ``start``: between NUL bytes if its first block has one, else by lines.

    Names are bytes, as file systems have them; UTF-16 and UTF-32 with a byte order mark are read as well.
    Raises InputError (``label`` and the cause) for an image, binary data, a list without a name, and a name of more
    than ``MAX_NAME_BYTES``.
    """
    blocks = _blocks(stream, label, start)
    first = next(blocks, b"")
    if starts_as_image(first):
        raise InputError(f"{label}: is an image, not a list of images; name it as one of `images`")
    separator = b"\0" if b"\0" in first else b"\n"
    _refuse_other_data(first, separator, label)
    rest, is_empty = first, True
    while True:
        *whole, rest = rest.split(separator)
        for name in _names(whole, separator, label):
            is_empty = False
            yield name
        if len(rest) > MAX_NAME_BYTES:
            raise InputError(f"{label}: a line has more than {MAX_NAME_BYTES >> 10} KiB; is it a list of images?")
        if (block := next(blocks, None)) is None:
            break
        rest += block
    for name in _names([rest], separator, label):
        is_empty = False
        yield name
    if is_empty:
        raise InputError(f"{label}: names no image; put a file, folder or address on each line")


def _blocks(stream: BinaryIO, label: str, start: bytes) -> Iterator[bytes]:
    """What there is at a time, as a list may grow slowly; text of another encoding as the bytes of file names."""
    read = getattr(stream, "read1", stream.read)
    start += read(_BLOCK)
    while len(start) < _MARK_BYTES and (more := read(_BLOCK)):
        start += more
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if encoding is None:
        yield start.removeprefix(codecs.BOM_UTF8)
        while block := read(_BLOCK):
            yield block
        return
    decoder = codecs.getincrementaldecoder(encoding)()  # it takes the mark
    try:
        yield os.fsencode(decoder.decode(start))
        while block := read(_BLOCK):
            yield os.fsencode(decoder.decode(block))
        yield os.fsencode(decoder.decode(b"", final=True))
    except UnicodeError as exc:
        raise InputError(f"{label}: begins as {encoding} text, but is none; save the list as UTF-8") from exc


def _refuse_other_data(first: bytes, separator: bytes, label: str) -> None:
    """InputError if the first block does not look like a list, and its names are not those of files either."""
    is_wide, is_binary = _UNMARKED.search(first), _BINARY.search(first)
    if not (is_wide or is_binary):
        return
    names = [os.fsdecode(line.removesuffix(b"\r")) for line in first.split(separator, _TRIED)[:_TRIED] if line]
    if is_wide and not all(map(os.path.lexists, names)):  # ls -d ? | tr has names of one character
        raise InputError(f"{label}: is UTF-16 text without a byte order mark; save the list as UTF-8")
    if is_binary and not any(os.path.isfile(name) or "://" in name for name in names if len(name) <= MAX_NAME_BYTES):
        raise InputError(f"{label}: is neither a list nor an image of a known format; name images, one per line")


def _names(lines: Iterable[bytes], separator: bytes, label: str) -> Iterator[str]:
    for line in lines:
        name = line.removesuffix(b"\r") if separator == b"\n" else line
        if b"\0" in name:
            raise InputError(
                f"{label}: holds a NUL byte after its first lines; separate all names by lines, or all by NUL"
            )
        if name:
            yield os.fsdecode(name)
