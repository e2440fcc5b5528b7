"""This process as the system sees it: its standard error, and how SIGTERM ends it."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_ENDED = 128 + signal.SIGTERM


@contextmanager
def losing_standard_error() -> Iterator[None]:
    """Inside the block, text that cannot be written to the standard error is lost without an error.

    The text is for people. A full disk behind it, or a reader that has left, must not end a server or a run. A
    ``sys.stderr`` of another kind than Python opens, such as a notebook's, stays as it is.
    """
    before = sys.stderr
    if type(before) is not io.TextIOWrapper or before.closed:
        yield
        return
    descriptor = before.fileno()
    with suppress(OSError):
        before.flush()
    stream = losing_text(descriptor, before.encoding)
    sys.stderr = stream
    try:
        yield
    finally:
        sys.stderr = before
        stream.flush()


def losing_text(descriptor: int, encoding: str, *, close: bool = False) -> TextIO:
    """Text for an open file, line by line; what cannot be written is lost. ``close``: the file with the text."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Losing(descriptor, "w", closefd=close)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside the block, SIGTERM ends the process as an exception does: its temporary folders go, and it says one line.

    The exit code is the one that a shell gives this signal. A second one ends it at once. Whoever ignores or handles
    the signal already goes on doing so; a command may handle it in its own way meanwhile.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except SystemExit as exc:
        if exc.code == _ENDED and sys.stderr is not None:  # print would take None for the standard output
            with losing_standard_error():
                print("ended by SIGTERM", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(_ENDED)


class _Losing(io.FileIO):
    """Nothing stays in the buffer above it, which would fail again at the next line, and when the process ends."""

    def write(self, data: Any, /) -> int:
        written = None
        with suppress(OSError):
            written = super().write(data)
        return len(data) if written is None else written  # None also from a pipe that is full and does not wait
