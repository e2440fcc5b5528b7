"""One digest of the bytes of many files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


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
