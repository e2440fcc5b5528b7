"""A lock that one process holds and that ends with it, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_deploy.errors import UnavailableError

_held: set[int] = set()
"""Descriptors of this process that hold a lock."""


def _let_go() -> None:
    """In a child: it would hold the lock on where its parent was killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


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
    _held.add(descriptor)
    try:
        if try_lock(descriptor) is False:
            raise UnavailableError(
                f"`{parameter}` {folder}: another process writes it; wait for it to end, or choose another place"
            )
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)
