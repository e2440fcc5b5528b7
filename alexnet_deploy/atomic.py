"""Artifacts appear whole or not at all: write to a temporary sibling, then rename.

A kill at any moment leaves the old artifact or the new one. What a killed process left behind
(``.NAME.tmp-PID``) is removed by the next writer of the same name, once that process is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from alexnet_deploy.errors import DeployError, UnavailableError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; rename it to ``path`` when the block ends without an error.

    Raises UnavailableError when the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    with _translated(path):
        temporary = _temporary_sibling(path)
    try:
        with _translated(path):
            yield temporary
            _fsync(temporary)
            os.replace(temporary, path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling directory; swap it in as ``path`` when the block ends without an error.

    Raises UnavailableError when the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    with _translated(path):
        temporary = _temporary_sibling(path)
        temporary.mkdir()
    try:
        with _translated(path):
            yield temporary
            for file in temporary.iterdir():
                _fsync(file)
            _fsync(temporary)
            _swap_in(temporary, path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_sibling(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        pid = stale.name.rpartition("-")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
    return path.parent / f".{path.name}.tmp-{os.getpid()}"


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 would terminate there; keep the stranger's file
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap_in(new: Path, path: Path) -> None:
    if not path.exists():
        os.rename(new, path)
    elif not path.is_dir():
        raise UnavailableError(f"{path}: a file of this name is in the way; move it, or choose another --output")
    elif not _exchange(new, path):
        # No atomic exchange on this file system: the old directory is kept aside until the new one stands.
        aside = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.rename(path, aside)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one step (Linux renameat2); False where kernel or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _fsync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # a directory has no handle to flush there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line; errors that already are ours pass."""
    try:
        yield
    except DeployError:
        raise
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnavailableError(f"{path}: no room left on the disk; free some, or choose another place") from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UnavailableError(f"{path}: cannot be written ({exc.strerror}); choose another place") from exc
        raise
