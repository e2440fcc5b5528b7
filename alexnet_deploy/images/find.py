"""The image files that a user names: files, folders and patterns, in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.codecs.formats import SUFFIXES

_CLUTTER = frozenset((
    "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@synoresource", "@tmp", "#recycle", "#snapshot",
    "__macosx", "desktop.ini", "lost+found", "recycler", "system volume information", "thumbs.db",
))  # fmt: skip
"""Folders and files that systems and storage boxes leave beside photos (in lower case): previews, deleted files."""


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is nobody's photo or class: hidden, or left there by a system."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def find_images(sources: Iterable[str | Path]) -> Iterator[Path]:
    """Image files of the sources, in their order: files, folders (recursive, sorted), glob patterns (sorted).

    A named file is always used; folders and patterns yield what has a suffix of ``SUFFIXES``, but nothing that
    ``is_clutter``. A file that cannot be decoded, a dangling link, a FIFO or a device is not passed over: opening it
    reports the cause. Folders stream, with the names of one directory in memory at a time (100 MB for a
    million). Each is read once, so a loop of symbolic links ends. A folder that cannot be read is yielded itself:
    opening it reports the cause.

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
        pattern = os.path.expanduser(source)
        matches = map(Path, sorted(glob.iglob(pattern, recursive=True)))
        own = frozenset(Path(pattern).parts)  # a folder that the pattern itself names is meant
        named = (
            match
            for match in matches
            if match.suffix.lower() in SUFFIXES
            and not any(is_clutter(part) and part not in own for part in match.parts)
        )
        images = (match for match in named if not match.is_dir())
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
    names: list[str] = []
    subfolders: set[str] = set()
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scan:
            for entry in scan:
                name = entry.name
                if is_clutter(name):
                    continue
                is_link = entry.is_symlink()
                if os.path.isdir(entry.path) if is_link else entry.is_dir():
                    subfolders.add(name)
                elif os.path.splitext(name)[1].lower() not in SUFFIXES:
                    continue
                names.append(name)
    except OSError:
        yield folder, False
        return
    if (identity := (status.st_dev, status.st_ino)) not in seen:
        seen.add(identity)
        names.sort()
        yield from ((os.path.join(folder, name), name in subfolders) for name in names)
