"""A folder that fills: its images as they become complete.

It is listed again and again. Events of the kernel would be quicker, but do not come from network folders or from other
containers, and do not say that a file is complete.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.sources import Shard

POLL_S = 1.0
_SHARE = 0.1  # of the time that goes into listing a folder of a million files
OLD_S = 60.0
"""A file that was last written longer ago is complete at first sight, also if it is empty."""


def watch_folder(
    folder: Path, stop: threading.Event, *, shard: Shard | None = None, poll_s: float = POLL_S
) -> Iterator[Iterator[Path]]:
    """Yield rounds of the images in ``folder`` that are new and complete, until ``stop`` is set; each path once.

    An image is complete when its size and time are the same in two rounds, and no process on this machine has it open
    to write (known on Linux, for the user's own files on local disks). A program that writes under a temporary name and
    renames, as rsync does, is always safe. A round must be read to its end. Some 100 bytes per path stay in memory.

    Raises InputError at the first round if ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder to watch; make it first")
    seen: set[bytes] = set()
    waiting: dict[str, tuple[int, int]] = {}
    while not stop.is_set():
        started = time.monotonic()
        yield _round(folder, stop, seen, waiting, shard)
        stop.wait(max(poll_s, (time.monotonic() - started) * (1 - _SHARE) / _SHARE if not waiting else poll_s))


def _round(
    folder: Path, stop: threading.Event, seen: set[bytes], waiting: dict[str, tuple[int, int]], shard: Shard | None
) -> Iterator[Path]:
    before = dict(waiting)
    waiting.clear()
    for path in _images(folder):
        if stop.is_set():
            return
        name = os.path.relpath(path, folder)
        key = blake2b(os.fsencode(name), digest_size=16).digest()
        if key in seen or (shard is not None and not shard.has(name)):
            continue
        try:
            status = path.stat()
        except OSError:
            continue  # a link whose file is still to come, or a file that was taken away
        looks = (status.st_size, status.st_mtime_ns)
        is_still = before.get(name) == looks and status.st_size > 0
        is_old = time.time() - status.st_mtime > OLD_S
        if (is_still or is_old) and not (stat.S_ISREG(status.st_mode) and _is_open_to_write(path)):
            seen.add(key)
            yield path
        else:
            waiting[name] = looks


def _images(folder: Path) -> Iterator[Path]:
    try:
        return find_images([folder])
    except InputError:  # no image yet
        return iter(())


def _is_open_to_write(path: Path) -> bool:
    """Whether a process has the file open to write: then Linux grants no read lease. False where it cannot tell."""
    take, read = getattr(fcntl, "F_SETLEASE", None), fcntl.F_RDLCK
    if take is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, take, read)
        fcntl.fcntl(descriptor, take, fcntl.F_UNLCK)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
