"""The temporary folder that an artifact is written in, and the lock that shows whether its writer lives.

A workspace is a sibling of its artifact, ``.NAME.tmp-RANDOM``, with a hash in place of the end of a long name. Its
writer holds ``flock`` on a file in it. The kernel drops the lock when the writer ends, however it ends, and sees it
across containers that share a volume, where process numbers mean nothing. So a workspace whose lock is free is a
leftover.

Where a file system has no locks, workspaces are never taken for leftovers. Where its locks do not reach the other
machines (NFS mounted with local locks), two machines must not write one artifact at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alexnet_deploy.files.lock import try_lock
from alexnet_deploy.files.swap import recover, shortened

_LOCK = "lock"  # an artifact in the folder could have this name: it lies one level deeper
_CONTENT = "new"
_TRIES = 100
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Yield the path to write ``target`` at, in a new folder of its own; the folder is removed at the end.

    So are the folders above ``target`` that were made for it, if an error leaves them empty. Sweeps the workspaces of
    ``target`` whose writers are gone, and ends what they had begun to put in place.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    _sweep(target)
    folder, lock = _locked_folder(target)
    try:
        (folder / _CONTENT).mkdir()
        yield folder / _CONTENT / target.name
    finally:
        shutil.rmtree(folder / _CONTENT, ignore_errors=True)
        os.close(lock)  # before its file is removed, which NFS would rename
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # one is not empty
            for parent in missing:
                parent.rmdir()


def meant(path: Path) -> Path:
    """The artifact that the user named, if ``path`` lies in its workspace."""
    for index, part in enumerate(path.parts):
        if (found := re.fullmatch(r"\.(.+)\.tmp-[a-z0-9_]{8}", part)) is not None:
            # A long name is whole below it only.
            name = path.parts[index + 2] if path.parts[index + 1 : index + 2] == (_CONTENT,) else found[1]
            return Path(*path.parts[:index], name)
    return path


def _locked_folder(target: Path) -> tuple[Path, int]:
    """A new workspace, and the descriptor whose lock keeps it alive."""
    for _ in range(_TRIES):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another process may remove the empty parent, or sweep the folder before it is locked. Then the lock is held
        # there, or its file is gone.
        with contextlib.suppress(FileNotFoundError):
            folder = Path(tempfile.mkdtemp(prefix=f".{shortened(target.name)}.tmp-", dir=target.parent))
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if try_lock(lock) is not False and _is_at(lock, folder / _LOCK):
                return folder, lock
            os.close(lock)
    raise BlockingIOError(errno.EAGAIN, "other processes remove its temporary folder", str(target))


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sweep(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(shortened(target.name))}.tmp-*"):
        with contextlib.suppress(OSError):  # another process sweeps it, or it is another user's
            if not _is_workspace(folder):
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
            try:
                if try_lock(lock) and _is_at(lock, folder / _LOCK):
                    recover(folder / _CONTENT / target.name, target)
                    recover(folder / target.name, target)  # where the first version wrote it
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _is_workspace(folder: Path) -> bool:
    """Whether this module made the folder: one with a lock, or one whose writer was killed before it had one."""
    suffix = folder.name.rpartition(".tmp-")[2]
    if folder.is_symlink() or not folder.is_dir():
        return False
    if suffix.isdecimal():  # the first version named it after a process, and kept no lock in it
        return True
    return re.fullmatch(r"[a-z0-9_]{8}", suffix) is not None and (
        (folder / _LOCK).exists() or next(folder.iterdir(), None) is None
    )
