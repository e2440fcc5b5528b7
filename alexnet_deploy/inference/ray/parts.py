"""Images cut into parts: what a worker on another machine gets, and the name by which a finished part is known."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from alexnet_deploy.errors import require_positive
from alexnet_deploy.images.sources import Source

PART_SIZE = 1024
"""A part is what the death of a worker costs: two seconds of a small machine. A multiple of the default batch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images ``start`` up to ``stop`` of a run."""

    start: int
    stop: int
    images: bytes
    """Pickled Sources; a local file has its absolute path, as a worker has a current folder of its own."""
    first_bytes: int | None
    """Size of the first image, if that is a local file: another machine may have other files under the same names."""

    @property
    def rows(self) -> int:
        """Number of images, and of rows."""
        return self.stop - self.start


def cut_into_parts(images: Iterable[Path | Source], size: int) -> tuple[list[Part], str]:
    """The images in parts of ``size``, and the SHA-256 of all names in their order."""
    require_positive(part_size=size)
    names = hashlib.sha256()
    return list(_parts(iter(images), size, names)), names.hexdigest()


def _parts(images: Iterator[Path | Source], size: int, names: hashlib._Hash) -> Iterator[Part]:
    start = 0
    while group := [_anywhere(image) for image in islice(images, size)]:
        for image in group:
            names.update(image.name.encode("utf-8", "surrogatepass") + b"\0")
        first = group[0].read
        yield Part(
            start,
            start + len(group),
            pickle.dumps(group, protocol=pickle.HIGHEST_PROTOCOL),
            size_of(first) if isinstance(first, Path) else None,
        )
        start += len(group)


def _anywhere(image: Path | Source) -> Source:
    """The image under the same name, but found from any folder."""
    path = image if isinstance(image, Path) else image.read
    return Source(str(image), Path(os.path.abspath(path))) if isinstance(path, Path) else Source(str(image), path)


def size_of(path: Path) -> int | None:
    """Bytes of a file; None if it cannot be found, or for a name that no file can have."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None
