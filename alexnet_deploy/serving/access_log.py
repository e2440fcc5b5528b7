"""The access log: a line of JSON per request, on the standard output. It holds no content, no query and no header."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

_log = logging.getLogger(__name__)

_MAX_WAITING = 10_000  # lines that wait for a slow reader of the log; some 3 MB
_AT_ONCE = 100  # lines of one write
_LONGEST_PATH = 200


class AccessLog:
    """Writes in a thread of its own: a reader that stops or leaves, or a full disk, costs lines, never answers."""

    def __init__(self, descriptor: int = 1, lost: Callable[[], None] = lambda: None) -> None:
        """``descriptor`` is an open file, by default the standard output; ``lost`` is called for each lost line.

        Nothing is left in a buffer of ``sys.stdout``, which would fail again when the process ends.
        """
        self._descriptor = descriptor
        self._lost = lost
        self._is_cut = self._has_warned = False
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write_all, daemon=True, name="access log")
        self._thread.start()

    def __call__(self, *, path: str, seconds: float, **fields: str | int | None) -> None:
        """One request; fields that are None are left out."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "path": path[:_LONGEST_PATH], "ms": round(1000 * seconds, 2)}
        record |= {name: value for name, value in fields.items() if value is not None}
        try:
            self._lines.put_nowait(msgspec.json.encode(record) + b"\n")
        except queue.Full:
            self._lost()

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            lines = [self._lines.get()]
            while len(lines) < _AT_ONCE and not self._lines.empty():
                lines.append(self._lines.get())
            is_open = None not in lines
            self._write(b"".join(line for line in lines if line is not None))

    def _write(self, lines: bytes) -> None:
        begin = b"\n" if self._is_cut else b""  # the rest of a line that a full disk cut is lost
        text, written = begin + lines, 0
        try:
            while written < len(text):
                written += os.write(self._descriptor, text[written:])
        except OSError as exc:
            for _ in range(text.count(b"\n", max(written, len(begin)))):
                self._lost()
            if not self._has_warned:
                self._has_warned = True
                _log.warning("the access log cannot be written (%s); its lines are lost until it can be", exc.strerror)
        if written:
            self._is_cut = text[written - 1 : written] != b"\n"

    def close(self) -> None:
        """Write what waits, for at most a second."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(1.0)
