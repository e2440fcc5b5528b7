"""uvicorn's HTTP protocol with the limits that it lacks: the size of headers, and clients that never finish them.

It overrides callbacks of asyncio and httptools. Of uvicorn's own members it uses ``cycle`` and ``flow``, and overrides
``on_response_complete``; tests/serving/test_limits.py says so when another version of uvicorn has them no longer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 32 << 10
"""Of one request, with its first line: browsers send a few hundred bytes, proxies with tokens some thousand."""
_BUFFERED = 256 << 10
"""Bytes of a body that wait for their reader; uvicorn's 64 KiB stop and start the connection for every usual image."""
_REFUSED = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)  # fmt: skip


def limited_protocol(idle_s: float, send_s: float) -> type[HttpToolsProtocol]:
    """The protocol class: a client has ``idle_s`` for its headers, and ``send_s`` to take an answer from the buffer."""

    class Limited(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._connection = transport
            self._header_bytes, self._in_headers = 0, True
            self._timer: asyncio.TimerHandle | None = None
            self._unread_timer: asyncio.TimerHandle | None = None
            self._abort_in(idle_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_headers:
                self._header_bytes += len(data)
                if self._timer is None:  # of a second request; the first one has the timer of its connection
                    self._abort_in(idle_s)
            super().data_received(data)
            if self._in_headers and self._header_bytes > MAX_HEADER_BYTES and not self._connection.is_closing():
                self._connection.write(_REFUSED)
                self._connection.close()

        def on_headers_complete(self) -> None:
            self._in_headers = False
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                return
            self.cycle.body += body
            if len(self.cycle.body) > _BUFFERED:
                self.flow.pause_reading()
            self.cycle.message_event.set()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete and not self._in_headers and not self._connection.is_closing():
                # Answered before its body was read, so nobody waits for the rest of it but this timer.
                self._unread_timer = asyncio.get_running_loop().call_later(idle_s, self._connection.abort)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            if self._unread_timer is not None:
                self._unread_timer.cancel()
            self._in_headers, self._header_bytes = True, 0

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_timer()
            self._abort_in(send_s)

        def resume_writing(self) -> None:
            self._stop_timer()
            super().resume_writing()

        def _abort_in(self, seconds: float) -> None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._connection.abort)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Limited
