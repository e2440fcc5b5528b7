"""An artifact is written whole or not at all.

It is written inside a temporary sibling folder (``workspace``), then renamed. A kill at any moment leaves the old
artifact or the new one, and the next writer of the same name removes what the killed one left. Of several processes
that write one name at the same time, each writes a whole artifact, and the last one to finish wins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.files.swap import swap_in
from alexnet_deploy.files.workspace import meant, workspace

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG, errno.EBUSY,
    errno.EXDEV, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT,
    errno.ENOTEMPTY, errno.EAGAIN, errno.EIO, errno.ESTALE,
)  # fmt: skip


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file becomes ``path`` when the block ends without an error.

    The yielded path has the name of ``path`` and its own folder, for files that the writer leaves beside it. A
    symbolic link is followed, as ``open`` does. Raises UnavailableError when the disk is full, the place cannot be
    written, or ``path`` is not a plain file; ``path`` is then as it was.
    """
    with _translated(path):
        target = Path(os.path.realpath(path))
        if not _is_missing_or(stat.S_ISREG, target):
            raise UnavailableError(f"{path}: is not a plain file and will not be replaced; choose another name")
        with workspace(target) as temporary:
            yield temporary
            _fsync(temporary)
            os.replace(temporary, target)
            _fsync_folder(target.parent)


def check_file(path: Path, parameter: str, *, formats: Sequence[str] = ()) -> None:
    """Raise UsageError or UnavailableError before any work if a file cannot be written.

    ``formats`` are the suffixes that its name may have (empty: any); ``parameter`` is its name in the caller's API.
    """
    if formats and path.suffix.lower() not in formats:
        raise UsageError(f"`{parameter}` {path}: does not end in one of {', '.join(formats)}; choose one of them")
    try:
        if not _is_missing_or(stat.S_ISREG, path):
            raise UsageError(f"`{parameter}` {path}: is not a plain file; name a file")
        target = Path(os.path.realpath(path))  # what writes it follows a link as well
        folder = next(parent for parent in target.parents if parent.exists())  # missing folders are made later
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise UnavailableError(
            f"`{parameter}` {path}: cannot be written ({exc.strerror}); choose another place"
        ) from exc


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; it becomes ``path`` when the block ends without an error.

    Raises UnavailableError when the disk is full, the place cannot be written, or ``path`` is a file; ``path`` is then
    as it was. Where the file system cannot exchange two names in one step (macOS, NFS), ``path`` is missing for a
    moment, and in a lower layer of an overlay as well; after a kill in that moment the next writer brings back the old
    one or the new one.
    """
    with _translated(path):
        target = _directory_target(path)
        with workspace(target) as temporary:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_dir():
                    _fsync_folder(file)
                else:
                    _fsync(file)
            _fsync_folder(temporary)
            swap_in(temporary, target)
            _fsync_folder(target.parent)


def check_directory(path: Path) -> None:
    """Raise now the error that ``atomic_directory`` would raise after the work if ``path`` cannot be written."""
    with _translated(path):
        above = next(folder for folder in _directory_target(path).parents if folder.exists())
        with tempfile.TemporaryFile(dir=above):
            pass


def _directory_target(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    if not _is_missing_or(stat.S_ISDIR, target):
        raise UnavailableError(f"{path}: a file of this name is in the way; move it, or choose another name")
    return target


def _is_missing_or(kind: Callable[[int], bool], path: Path) -> bool:
    """In one look: another writer may move the artifact away, and its own there, between two."""
    try:
        return kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, if the platform can flush a folder at all."""
    with contextlib.suppress(OSError):
        _fsync(path)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into one line; our own errors pass."""
    try:
        yield
    except DeployError:
        raise
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            raise UnavailableError(
                f"{meant(path)}: no room left on the disk; free some, or choose another place"
            ) from exc
        if exc.errno in _REFUSED:
            raise UnavailableError(f"{meant(path)}: cannot be written ({exc.strerror}); choose another place") from exc
        raise
