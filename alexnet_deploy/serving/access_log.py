"""The access log: a line of JSON per request, on the standard output. It holds no content, no query and no header."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

import msgspec

_MAX_WAITING = 10_000  # lines that wait for a slow reader of the log; some 3 MB
_LONGEST_PATH = 200


class AccessLog:
    """Writes in a thread of its own: a reader that stops reading costs lines, never answers."""

    def __init__(self, stream: TextIO | None = None, lost: Callable[[], None] = lambda: None) -> None:
        """``lost`` is called for each line that could not wait."""
        self._stream = sys.stdout if stream is None else stream
        self._lost = lost
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write, daemon=True, name="access log")
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

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line.decode())
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the reader has left: the server goes on without a log
                self._lost()

    def close(self) -> None:
        """Write what waits, for at most a second."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(1.0)
