"""Files by their bytes: the copies among them, and one digest of all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def copies(files: Sequence[Path], indices: Iterable[int]) -> Iterator[list[int]]:
    """Groups of two and more byte-identical files, by index, ascending; a file that cannot be read has no copy.

    Only files that share their size with another are read.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        try:
            by_size[files[index].stat().st_size].append(index)
        except OSError:
            continue
    by_hash: dict[bytes, list[int]] = defaultdict(list)
    for group in by_size.values():
        for index in group if len(group) > 1 else ():
            try:
                by_hash[_sha256(files[index])].append(index)
            except OSError:
                continue
    yield from (group for group in by_hash.values() if len(group) > 1)


def content_digest(files: Sequence[Path], *, threads: int) -> str:
    """SHA-256 over the bytes of all files, in their order. OSError for one that cannot be read.

    Names, sizes and times are not enough: a photo may be replaced by another under all of them.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max(1, threads)) as pool:  # hashlib works without the interpreter's lock
        for found in pool.map(_sha256, files):
            digest.update(found)
    return digest.hexdigest()


def _sha256(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
