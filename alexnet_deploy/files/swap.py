"""A new directory takes the place of the old one, so that a kill at any moment loses neither."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TRIES = 100  # writers that overtake this one
_MOST_BYTES = 100  # of a name within a longer one: file systems allow 255, encrypting ones 143
_BEGINNING = 20  # characters of a name that has more
_DOOMED = ".being-replaced"  # in an old directory that is deleted file by file, until the last one


def swap_in(new: Path, target: Path) -> None:
    """Move the directory ``new`` to ``target``; the one that was there stays beside ``new``, or is deleted.

    In one step where the system can (Linux). Otherwise ``target`` is missing for a moment, and ``recover`` repairs what
    a kill in that moment leaves. Several processes may do it at the same time: the last one wins.
    """
    for remaining in reversed(range(_TRIES)):
        try:
            _swap_once(new, target)
            return
        except OSError as exc:  # another process moved its own there, or away, between two of our steps
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not remaining:
                raise


def _swap_once(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        try:
            shutil.rmtree(_aside(new), ignore_errors=True)  # of the try before: what is at ``target`` is newer
            os.rename(target, _aside(new))
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            _delete_and_rename(new, target)
            return
        try:
            os.rename(new, target)
        except OSError:
            if not target.exists():
                os.rename(_aside(new), target)
            raise


def recover(new: Path, target: Path) -> None:
    """Finish or undo the ``swap_in`` that a killed process began, if it did; OSError if that cannot be done."""
    if _aside(new).exists() and not target.exists():
        os.rename(_aside(new), target)
    elif _whole(new).exists() and new.exists() and (not target.exists() or _is_doomed(target)):
        _delete_and_rename(new, target)


def _delete_and_rename(new: Path, target: Path) -> None:
    """Replace a directory that cannot be renamed: one in a lower layer of an overlay, as in a container image."""
    _whole(new).touch()
    if target.exists():
        (target / _DOOMED).touch()
        for entry in target.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _DOOMED:
                entry.unlink()
        (target / _DOOMED).unlink()
        target.rmdir()
    os.rename(new, target)


def _is_doomed(target: Path) -> bool:
    """Whether ``_delete_and_rename`` began with it; anything else there came later and is not ours."""
    return (target / _DOOMED).exists() or not any(target.iterdir())


def shortened(name: str) -> str:
    """``name``, which may be as long as its file system allows, as a part of longer ones."""
    encoded = os.fsencode(name)
    if len(encoded) <= _MOST_BYTES:
        return name
    return f"{name[:_BEGINNING]}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _aside(new: Path) -> Path:
    """Where the old directory waits for the new one to take its place."""
    return new.with_name(f"{shortened(new.name)}.old")


def _whole(new: Path) -> Path:
    """A file that is there once ``new`` is complete and about to replace the old directory."""
    return new.with_name(f"{shortened(new.name)}.whole")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one step (Linux renameat2); False if the kernel or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(b))
