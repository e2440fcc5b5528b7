"""A lock that one process holds and that ends with it, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_deploy.errors import UnavailableError


def try_lock(descriptor: int) -> bool | None:
    """Whether the lock was free and is now ours; None if the file system has no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):  # Windows has no flock
        return None
    return True


@contextmanager
def only_writer(folder: Path, parameter: str) -> Iterator[None]:
    """Keep other processes that call this for ``folder`` out of it; UnavailableError where one is in it.

    ``parameter`` is what the folder is given as. Nothing is written: the lock is the folder's own.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if try_lock(descriptor) is False:
            raise UnavailableError(
                f"`{parameter}` {folder}: another process writes it; wait for it to end, or choose another place"
            )
        yield
    finally:
        os.close(descriptor)
