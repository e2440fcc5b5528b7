"""Plain files, read and hashed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path


def open_regular(path: Path) -> io.BufferedReader:
    """Open a plain file to read its bytes; never waits for a FIFO, and never touches a device.

    OSError if it cannot be opened, as ``open`` raises it, or if it is a folder, a FIFO, a socket or a device.
    """
    _require_regular(path, os.stat(path).st_mode)  # before it is opened: some devices act on being opened
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}, not a plain file", str(path))


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a plain file, read in pieces; OSError as ``open_regular``."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
