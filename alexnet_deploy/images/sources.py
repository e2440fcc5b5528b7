"""The images that a user names in any way: files, folders, patterns, addresses, lists of these, the standard input.

Everything streams: neither a folder nor a list is read ahead of its reader.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.images.decode import load_pixels, open_rgb, resize
from alexnet_deploy.images.find import find_images

MAX_IMAGE_BYTES = 64 << 20
"""Of one image that is no local file: photos of 100 million pixels have some 60 MB."""
MAX_NAME_BYTES = 64 << 10
"""Of one line of a list: Linux allows paths of 4096 bytes, and signed addresses have a few thousand."""
STANDARD_INPUT = "-"
_BLOCK = 1 << 16

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|....ftyp|\0\0\0\x0c(?:jP  |JXL )"
    rb"|\xff\x0a|\xff\x4f\xff\x51|P[1-7]\s+(?:#|\d+\s+\d)|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
_START_BYTES = 32


@dataclass(frozen=True, slots=True)
class Source:
    """One image under the name that the user wrote; ``read`` is its file, or a function that returns its bytes.

    The function raises InputError (``name`` and the cause) if it cannot.
    """

    name: str
    read: Path | Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``number`` (from 1) of ``count`` parts of a set of images, chosen by a hash of each image's name alone.

    It depends neither on the machine nor on the order or the number of the images. Raises UsageError for a part that
    does not exist.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 1 <= self.number <= self.count:
            parts = f"parts count from 1/{self.count} to {self.count}/{self.count}" if self.count > 0 else _SHARD_FORM
            raise UsageError(f"`shard` {self.number}/{self.count}: no such part; {parts}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of ``"2/8"``; UsageError for anything else."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None:
            raise UsageError(f"`shard` {text}: is no part of a whole; {_SHARD_FORM}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, name: str) -> bool:
        """Whether the image ``name`` belongs to this part. macOS stores the same accents in another form, hence NFC."""
        same = unicodedata.normalize("NFC", name.replace(os.sep, "/")).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(same).digest()[:8]) % self.count == self.number - 1


_SHARD_FORM = "give it as 1/4 for the first of four"


def find_sources(
    images: Iterable[str], *, from_file: Path | None = None, shard: Shard | None = None, allow_http: bool = False
) -> Iterator[Path | Source]:
    """The images of ``images`` and then of the list ``from_file``, in their order.

    One of ``images`` is a file, folder or pattern (see ``find_images``); an address (``https://``; ``s3://`` and others
    through fsspec, where a ``/`` at the end or a ``*`` stands for many images); or ``-``, the standard input: one
    image, or a list of images. A list has a file, folder or address per line, or between NUL bytes; a line that cannot
    be used becomes an image that cannot be read, so that it has a row of its own. ``allow_http`` allows addresses
    without encryption. ``shard`` takes a part: by the path relative to its folder, else by the name as written.

    Raises InputError at the call for what ``find_images`` refuses and for a list that cannot be read, UsageError
    without any image and for ``-`` twice, UnavailableError for an address whose package is missing.
    """
    named = list(images)
    if not named and from_file is None:
        raise UsageError("no image is named; give files, folders or addresses as `images`, or a list as `from_file`")
    if named.count(STANDARD_INPUT) + (str(from_file) == STANDARD_INPUT) > 1:
        raise UsageError(f"`images` {STANDARD_INPUT}: the standard input can be read once; name it once")
    parts = [_named(text, allow_http) for text in named]
    if from_file is not None:
        parts.append(_list_file(from_file, allow_http))
    keyed = chain.from_iterable(parts)
    return (image for key, image in keyed if shard is None or shard.has(key))


def load_source(source: Path | Source, pre: Preprocessing, out: NDArray[np.uint8]) -> object:
    """Fill ``out`` ``[H, W, 3]`` from an image; raises InputError as ``open_rgb`` does."""
    if isinstance(source, Path):
        return load_pixels(source, pre, out)
    data = source.read if isinstance(source.read, Path) else source.read()
    out[...] = np.asarray(resize(open_rgb(data, name=source.name), pre))
    return out


def is_address(text: str) -> bool:
    """Whether ``text`` names something by an address, such as ``https://`` or ``s3://``."""
    return _ADDRESS.match(text) is not None


def starts_as_image(data: bytes) -> bool:
    """Whether ``data`` begins as an image file does, of a format that this package decodes or knows by name."""
    return _IMAGE_START.match(data) is not None


_Keyed = Iterator[tuple[str, Path | Source]]  # what shards go by, and the image


def _named(text: str, allow_http: bool) -> _Keyed:
    if text == STANDARD_INPUT:
        return _standard_input(allow_http)
    if is_address(text):
        from alexnet_deploy.images.remote import find_remote

        return ((name, Source(name, read)) for name, read in find_remote(text, MAX_IMAGE_BYTES, allow_http=allow_http))
    return _local(text)


def _local(text: str) -> _Keyed:
    found = find_images([text])
    if os.path.isdir(text):
        return ((os.path.relpath(path, text), path) for path in found)
    if os.path.lexists(text):
        return iter([(text, Source(text, Path(text)))])
    return ((str(path), path) for path in found)


def _standard_input(allow_http: bool) -> _Keyed:
    """One image or a list, by its first bytes."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            f"`images` {STANDARD_INPUT}: the standard input is a terminal; pipe an image or a list into it"
        )
    stream = sys.stdin.buffer
    start = stream.read(_START_BYTES)
    if not starts_as_image(start):
        return _listed(stream, "standard input", allow_http, start=start)
    data = start + stream.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise InputError(f"standard input: holds more than {MAX_IMAGE_BYTES >> 20} MiB; save the image in a file")
    return iter([(STANDARD_INPUT, Source(STANDARD_INPUT, lambda: data))])


def _list_file(path: Path, allow_http: bool) -> _Keyed:
    if str(path) == STANDARD_INPUT:
        return _listed(sys.stdin.buffer, "standard input", allow_http)
    try:
        kind = path.stat().st_mode
        # A pipe that a shell opened, as in <(find ...), has its writer; another one could wait for ever.
        if not stat.S_ISREG(kind) and not (stat.S_ISFIFO(kind) and str(path.parent) in ("/dev/fd", "/proc/self/fd")):
            raise InputError(f"`from_file` {path}: is not a plain file; name a list, or pipe it into `images` -")
        path.open("rb").close()
    except OSError as exc:
        raise InputError(f"`from_file` {path}: cannot be read ({exc.strerror}); name a list of images") from exc
    return _opened(path, allow_http)


def _opened(path: Path, allow_http: bool) -> _Keyed:
    with path.open("rb") as stream:
        yield from _listed(stream, str(path), allow_http)


def _listed(stream: BinaryIO, label: str, allow_http: bool, *, start: bytes = b"") -> _Keyed:
    for name in _lines(stream, label, start):
        if is_address(name):
            yield from _remote_of_list(name, allow_http)
        elif os.path.isdir(name):
            try:
                yield from _local(name)
            except InputError:  # it holds no image; opening it says that it is none
                yield name, Source(name, Path(name))
        else:
            yield name, Source(name, Path(name))


def _remote_of_list(name: str, allow_http: bool) -> _Keyed:
    try:
        yield from _named(name, allow_http)
    except DeployError as exc:  # a bad line must not end the run
        yield name, Source(name, partial(_fail, str(exc) if str(exc).startswith(name) else f"{name}: {exc}"))


def _fail(message: str) -> bytes:
    raise InputError(message)


def _lines(stream: BinaryIO, label: str, start: bytes) -> Iterator[str]:
    """The names of a list that begins with ``start``: between NUL bytes if its first block has one, else by lines."""
    read = getattr(stream, "read1", stream.read)  # what there is: a list may grow slowly
    rest = (start + read(_BLOCK)).removeprefix(b"\xef\xbb\xbf")
    separator = b"\0" if b"\0" in rest else b"\n"
    while True:
        *whole, rest = rest.split(separator)
        yield from _names(whole, separator, label)
        if len(rest) > MAX_NAME_BYTES:
            raise InputError(f"{label}: a line has more than {MAX_NAME_BYTES >> 10} KiB; is it a list of images?")
        if not (block := read(_BLOCK)):
            break
        rest += block
    yield from _names([rest], separator, label)


def _names(lines: Iterable[bytes], separator: bytes, label: str) -> Iterator[str]:
    for line in lines:
        name = line.removesuffix(b"\r") if separator == b"\n" else line
        if b"\0" in name:
            raise InputError(
                f"{label}: holds a NUL byte after its first lines; separate all names by lines, or all by NUL"
            )
        if name:
            yield os.fsdecode(name)
