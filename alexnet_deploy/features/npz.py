"""Features as an ``.npz``: arrays ``files``, ``vectors`` and ``space``, which ``numpy.load`` reads without pickle."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from alexnet_deploy.errors import DeployError, one_line
from alexnet_deploy.features.blocks import FeatureIndex, Write, checked, damaged, rows_per_block, valid_text
from alexnet_deploy.features.space import FORMAT, FeatureSpace
from alexnet_deploy.files import open_regular

# Legend: N image, F feature

_MEMBERS = ("space", "files", "vectors")
_NAMES = 4096
"""Names that are converted at a time."""
_LONGEST = 1 << 16
"""Characters of a name: twice what any file system allows for a path, with room for escapes."""


@contextmanager
def npz_writer(path: Path, space: FeatureSpace) -> Iterator[Write]:
    """Yield a function that appends vectors. They wait in files beside ``path`` until their number is known."""
    raw, names = path.with_name("vectors.raw"), path.with_name("names.jsonl")
    rows = longest = 0
    with raw.open("wb") as vectors, names.open("w", encoding="utf-8") as listed:

        def write(files: Sequence[str], vectors_NF: NDArray[np.float32]) -> None:
            nonlocal rows, longest
            np.ascontiguousarray(vectors_NF, "<f4").tofile(vectors)
            for file in map(valid_text, files):
                longest = max(longest, len(file))
                listed.write(json.dumps(file) + "\n")
            rows += len(files)

        yield write
    kind = f"<U{max(longest, 1)}"
    text = np.array(space.to_json())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "space") as stream:
            npy.write_array(stream, text, allow_pickle=False)
        with _member(archive, "files") as stream, names.open(encoding="utf-8") as lines:
            _write_header(stream, kind, (rows,))
            for start in range(0, rows, _NAMES):
                block = [json.loads(next(lines)) for _ in range(min(_NAMES, rows - start))]
                stream.write(np.array(block, kind).tobytes())
        with _member(archive, "vectors") as stream, raw.open("rb") as written:
            _write_header(stream, "<f4", (rows, space.features.width))
            shutil.copyfileobj(written, stream, 1 << 20)
    raw.unlink()
    names.unlink()


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _write_header(stream: Any, kind: str, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})


@contextmanager
def open_npz(path: Path) -> Iterator[FeatureIndex]:
    """Yield the features in ``path``; raises as ``index.open_index``, and OSError if it cannot be opened."""
    with ExitStack() as opened:
        stream = opened.enter_context(open_regular(path))
        with _reading(path):
            index = _NpzIndex(path, opened.enter_context(zipfile.ZipFile(stream)))
        yield index


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What a damaged archive raises in the block, as an ArtifactError."""
    try:
        yield
    except DeployError:
        raise
    # RuntimeError: an encrypted entry; SyntaxError: a header that is no literal
    except (zipfile.BadZipFile, ValueError, SyntaxError, EOFError, NotImplementedError, RuntimeError, KeyError) as exc:
        raise damaged(path, one_line(exc, 160)) from exc


class _NpzIndex:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in _MEMBERS):
            raise ValueError(f"its entries are not {', '.join(_MEMBERS)}")
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"{entry.filename} is compressed")
        with self._entry("space", "U", 0) as (stream, _, kind):
            if kind.itemsize > 4 * FORMAT.max_bytes:
                raise ValueError("its space is too large")
            (text,) = _texts(stream.read(kind.itemsize), kind)
        self.space = FeatureSpace.from_json(text, source=str(path))
        with self._entry("files", "U", 1) as (_, shape, kind):
            self.rows = shape[0]
            if kind.itemsize > 4 * _LONGEST:
                raise ValueError("its names are too long")
        with self._entry("vectors", "f", 2) as (_, shape, kind):
            if kind != np.dtype("<f4") or shape != (self.rows, self.space.features.width):
                raise ValueError(f"its vectors are {kind} {list(shape)}")

    @contextmanager
    def _entry(self, name: str, kind: str, axes: int) -> Iterator[tuple[BinaryIO, tuple[int, ...], np.dtype[Any]]]:
        """A stream at the values of an array, its shape and its type; ValueError for another kind of array."""
        entry = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(entry) as stream:
            if npy.read_magic(stream) != (1, 0):
                raise ValueError(f"{name} has another version")
            shape, is_fortran, dtype = npy.read_array_header_1_0(stream)  # which allows 10,000 characters
            if dtype.kind != kind or dtype.hasobject or len(shape) != axes or is_fortran or dtype.itemsize < 1:
                raise ValueError(f"{name} is an array of {dtype} {list(shape)}")
            count = 1
            for side in shape:
                count *= side
            if stream.tell() + count * dtype.itemsize != entry.file_size:
                raise ValueError(f"{name} has {entry.file_size} bytes for {dtype} {list(shape)}")
            yield stream, shape, dtype  # type: ignore[misc]  # ZipExtFile reads as BinaryIO does

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        with _reading(self.path), self._entry("vectors", "f", 2) as (stream, (rows, width), kind):
            for vectors_N in _in_parts(stream.read, rows, rows_per_block(width), width * kind.itemsize):
                yield checked(np.frombuffer(vectors_N, kind).reshape(-1, width), self.path)

    def names(self, rows: Sequence[int]) -> list[str]:
        found = {}
        with _reading(self.path), self._entry("files", "U", 1) as (stream, _, kind):
            start = stream.tell()
            for row in sorted(set(rows)):
                stream.seek(start + row * kind.itemsize)
                (found[row],) = _texts(stream.read(kind.itemsize), kind)
        return [found[row] for row in rows]

    def all_names(self) -> Iterator[list[str]]:
        with _reading(self.path), self._entry("files", "U", 1) as (stream, (rows,), kind):
            for names in _in_parts(stream.read, rows, _NAMES, kind.itemsize):
                yield _texts(names, kind)


def _texts(content: bytes, kind: np.dtype[Any]) -> list[str]:
    """Texts of the type ``kind``; ValueError for numbers that are no characters, which NumPy does not check."""
    characters = np.frombuffer(content, kind.byteorder + "u4")
    if ((characters > 0x10FFFF) | ((characters >= 0xD800) & (characters < 0xE000))).any():
        raise ValueError("a text has a number that is no character")
    return [str(text) for text in np.frombuffer(content, kind)]


def _in_parts(read: Callable[[int], bytes], rows: int, at_once: int, row_bytes: int) -> Iterator[bytes]:
    for start in range(0, rows, at_once):
        wanted = min(at_once, rows - start) * row_bytes
        part = read(wanted)
        if len(part) != wanted:
            raise EOFError("it ends early")
        yield part
