"""Files of this package: written whole or not at all, hashed, kept in one cache folder.

An artifact is written inside a temporary sibling folder (``.NAME.tmp-PID``), then renamed. A kill at any moment leaves
the old artifact or the new one. The next writer of the same name removes the folder of a process that is gone. A
process writes a name only once at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG, errno.EBUSY,
    errno.EXDEV, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT,
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
        if target.exists() and not target.is_file():
            raise UnavailableError(f"{path}: is not a plain file and will not be replaced; choose another `output`")
        with _workspace(target) as temporary:
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
        if path.exists() and not path.is_file():
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
    moment; after a kill in that moment the next writer brings the old one back.
    """
    with _translated(path):
        target = _directory_target(path)
        with _workspace(target) as temporary:
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                _fsync(file)
            _fsync_folder(temporary)
            _swap_in(temporary, target)
            _fsync_folder(target.parent)


def check_directory(path: Path) -> None:
    """Raise now the error that ``atomic_directory`` would raise after the work if ``path`` cannot be written."""
    with _translated(path):
        above = next(folder for folder in _directory_target(path).parents if folder.exists())
        with tempfile.TemporaryFile(dir=above):
            pass


def _directory_target(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise UnavailableError(f"{path}: a file of this name is in the way; move it, or choose another `output`")
    return target


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(target)
    folder = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    folder.mkdir()
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_leftovers(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
        pid = folder.name.rpartition("-")[2]
        # Our own number counts as gone: in a container each run may get the number of the killed run before it.
        if pid.isdecimal() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            with contextlib.suppress(OSError):
                os.rename(_aside(folder / target.name), target)
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 would terminate the process there; keep the folder
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _swap_in(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        os.rename(target, _aside(new))
        try:
            os.rename(new, target)
        except OSError:
            os.rename(_aside(new), target)
            raise


def _aside(new: Path) -> Path:
    """Where the old directory waits for the new one to take its place."""
    return new.with_name(f"{new.name}.old")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one step (Linux renameat2); False if the kernel or the file system cannot."""
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
                f"{_meant(path)}: no room left on the disk; free some, or choose another place"
            ) from exc
        if exc.errno in _REFUSED:
            raise UnavailableError(f"{_meant(path)}: cannot be written ({exc.strerror}); choose another place") from exc
        raise


def _meant(path: Path) -> Path:
    """The artifact that the user named, if ``path`` lies in its temporary folder."""
    for index, part in enumerate(path.parts):
        if (workspace := re.fullmatch(r"\.(.+)\.tmp-\d+", part)) is not None:
            return Path(*path.parts[:index], workspace[1])
    return path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


CACHE_VARIABLE = "ALEXNET_DEPLOY_CACHE"


def cache_folder() -> Path:
    """The folder for files that this package can always make or download again; it need not exist.

    $ALEXNET_DEPLOY_CACHE, or ``alexnet-deploy`` under $XDG_CACHE_HOME or ``~/.cache``. Raises UnavailableError without
    the variable and without a home directory.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "alexnet-deploy"
    try:
        return Path.home() / ".cache" / "alexnet-deploy"
    except RuntimeError as exc:
        raise UnavailableError(f"no home directory to keep a cache in; set {CACHE_VARIABLE} to a folder") from exc
