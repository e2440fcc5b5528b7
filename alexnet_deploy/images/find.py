"""The image files that a user names: files, folders and patterns, in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from alexnet_deploy.errors import InputError

SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
))  # fmt: skip
"""File names that count as images inside a folder (compared in lower case)."""


def find_images(sources: Iterable[str | Path]) -> Iterator[Path]:
    """Image files of the sources, in their order: files, folders (recursive, sorted), glob patterns (sorted).

    A named file is always used; folders and patterns yield files with a suffix of ``SUFFIXES`` that are not hidden.
    Folders stream, with the names of one directory in memory at a time. Each is read once, so a loop of symbolic
    links ends. A folder that cannot be read is yielded itself: opening it reports the cause.

    Raises InputError at the call, before anything is yielded, for a source that is empty, missing or has no image.
    """
    return chain.from_iterable([_images_of(source) for source in sources])


def _images_of(source: str | Path) -> Iterator[Path]:
    if source == "":  # for Path it would be the current folder
        raise InputError("an image source is empty; name a file, a folder or a pattern")
    path = Path(source)
    if path.is_dir():
        images, nothing = _walk(path), "holds no image; name a folder with image files"
    elif path.exists() or not glob.has_magic(str(source)):
        if not os.path.lexists(path):
            raise InputError(f"{path}: no such file or folder; check the path")
        return iter([path])
    else:
        matches = map(Path, sorted(glob.iglob(os.path.expanduser(source), recursive=True)))
        named = (match for match in matches if match.suffix.lower() in SUFFIXES)
        # A dangling link is a missing image, as in a folder.
        images = (match for match in named if match.is_file() or (match.is_symlink() and not match.exists()))
        nothing = "matches no image; check the pattern"
    first = next(images, None)
    if first is None:
        raise InputError(f"{path}: {nothing}")
    return chain([first], images)


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    open_folders = [_entries(str(folder), seen)]  # a list: folders may nest deeper than Python's stack
    while open_folders:
        path, is_folder = next(open_folders[-1], ("", False))
        if is_folder:
            open_folders.append(_entries(path, seen))
        elif path:
            yield Path(path)
        else:
            open_folders.pop()


def _entries(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Images and subfolders (path, is folder) of a folder not yet ``seen``, sorted by name."""
    images: list[str] = []
    subfolders: set[str] = set()
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scan:
            for entry in scan:
                is_link = entry.is_symlink()
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path) if is_link else entry.is_dir():
                    subfolders.add(entry.name)
                # A dangling link is a missing image, not one to skip; pipes and sockets are not images.
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and (is_link or entry.is_file()):
                    images.append(entry.name)
    except OSError:
        yield folder, False
        return
    if (identity := (status.st_dev, status.st_ino)) not in seen:
        seen.add(identity)
        yield from ((os.path.join(folder, name), name in subfolders) for name in sorted((*images, *subfolders)))
