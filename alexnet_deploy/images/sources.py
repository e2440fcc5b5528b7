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
from alexnet_deploy.images.codecs.formats import starts_as_image
from alexnet_deploy.images.decode import load_pixels, open_photo, resize
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.lists import names_of_list

MAX_IMAGE_BYTES = 64 << 20
"""Of one image that is no local file: photos of 100 million pixels have some 60 MB."""
STANDARD_INPUT = "-"

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
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
    image, or a list of images. A list (see ``names_of_list``) has files, folders or addresses; a line that cannot be
    used becomes an image that cannot be read, so that it has a row of its own. ``allow_http`` allows addresses
    without encryption. ``shard`` takes a part: by the path relative to its folder, else by the name as written.

    Raises InputError at the call for what ``find_images`` refuses and for a list that cannot be read, at its place for
    what is no list, UsageError without any image and for ``-`` twice, UnavailableError for an address whose package is
    missing.
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
    out[...] = np.asarray(resize(open_photo(data, pre, name=source.name), pre))
    return out


def is_address(text: str) -> bool:
    """Whether ``text`` names something by an address, such as ``https://`` or ``s3://``."""
    return _ADDRESS.match(text) is not None


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
    stream = _piped(f"`images` {STANDARD_INPUT}")
    start = stream.read(_START_BYTES)
    if not start:
        raise InputError("standard input: is empty; pipe an image or a list into it")
    if not starts_as_image(start):
        return _listed(stream, "standard input", allow_http, start=start)
    data = start + stream.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise InputError(f"standard input: holds more than {MAX_IMAGE_BYTES >> 20} MiB; save the image in a file")
    return iter([(STANDARD_INPUT, Source(STANDARD_INPUT, partial(bytes, data)))])


def _piped(parameter: str) -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"{parameter}: the standard input is a terminal; pipe an image or a list into it")
    return sys.stdin.buffer


def _list_file(path: Path, allow_http: bool) -> _Keyed:
    if str(path) == STANDARD_INPUT:
        return _listed(_piped(f"`from_file` {STANDARD_INPUT}"), "standard input", allow_http)
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
    for name in names_of_list(stream, label, start=start):
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
