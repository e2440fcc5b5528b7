"""The standard output of a command: a full disk behind it, or a closed one, is one clear error."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alexnet_deploy.errors import UnavailableError


@contextmanager
def checked_standard_output() -> Iterator[None]:
    """Inside the block, a failed write to the standard output raises UnavailableError.

    The buffers are written when the block ends. A reader that has left (``| head``) ends the process quietly, with exit
    code 1 instead of 0. What its encoding lacks, such as the names of files in Latin-1, is written as escapes. A
    ``sys.stdout`` without a file behind it, such as a notebook's, stays as it is.
    """
    _hold_closed_descriptors()
    before = sys.stdout
    try:
        descriptor = 1 if before is None else before.fileno()
    except io.UnsupportedOperation:
        yield
        return
    settings: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
    if before is not None:
        before.flush()
        settings = {
            "encoding": before.encoding,
            "errors": "backslashreplace" if before.errors == "strict" else before.errors,
            "line_buffering": before.line_buffering or getattr(before, "write_through", False),
        }
    stream = io.TextIOWrapper(io.BufferedWriter(_Output(descriptor, "w", closefd=False)), **settings)
    sys.stdout = stream
    try:
        yield
    finally:
        sys.stdout = before
        try:
            stream.flush()
        except BrokenPipeError as left:
            _discard(descriptor)
            if isinstance(left.__context__, SystemExit) and not left.__context__.code:
                raise SystemExit(1) from None
        except UnavailableError:
            _discard(descriptor)
            raise


class _Output(io.FileIO):
    def write(self, data: Any, /) -> Any:  # None from a pipe that is full and does not wait
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as exc:
            cause = "is closed" if exc.errno == errno.EBADF else f"cannot be written ({exc.strerror})"
            raise UnavailableError(f"the standard output {cause}; redirect it, for example with > FILE") from exc


def _discard(descriptor: int) -> None:
    """Discard the buffers: the interpreter would fail on them again when it ends."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)


def _hold_closed_descriptors() -> None:
    """Occupy a closed 0, 1 or 2: the next opened file would get that number, and with it the output of libraries."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Always the lowest free number. Reading alone, so that a write to the standard output still fails.
            os.open(os.devnull, os.O_RDWR if descriptor == 2 else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
