"""uvicorn's HTTP protocol with what it lacks: limits of headers and connections, patience, refusals as JSON.

It overrides callbacks of asyncio and httptools. Of uvicorn's own members it uses some that are no public interface;
tests/serving/http/test_uvicorn.py says so when another version of uvicorn has them no longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alexnet_deploy.serving.refusals import BadRequestError, BusyError, HeadersTooLargeError, Refusal
from alexnet_deploy.serving.security import HEADERS, OPEN_PATHS
from alexnet_deploy.serving.settings import Settings

MAX_HEADER_BYTES = 32 << 10
"""Of one request, with its first line: browsers send a few hundred bytes, proxies with tokens some thousand."""
_BUFFERED = 256 << 10
"""Bytes of a body that wait for their reader; uvicorn's 64 KiB stop and start the connection for every usual image."""
_LAST_REQUEST_S = 1.0
"""How long an ending server waits for the request of a new connection: several round trips around the world."""
_PER_FIELD = 4  # ": " and the end of the line
_OPEN = tuple(path.encode() for path in OPEN_PATHS)


class Refused(Protocol):
    """Is told about each refusal of bytes that never became a request."""

    def __call__(self, *, status: int, client: str | None) -> None:
        """Count and log it."""


def limited_protocol(
    settings: Settings, refused: Refused, ending: Callable[[], bool] = lambda: False
) -> type[HttpToolsProtocol]:
    """The protocol class. ``ending`` says whether the server ends: then every answer is the last of its connection.

    A client has ``idle_s`` for its headers, and ``timeout_s`` to take an answer from the buffer. Where
    ``max_connections`` are open, a new one takes the place of the one that has been idle for the longest after an
    answer. If none is, its requests are refused, except those for the server's health. ``scope["refused"]`` is the
    Refusal that the application has to raise.
    """
    too_many = f"{settings.max_connections} connections are open, as many as this server takes; try again later"
    idle: dict[Limited, None] = {}  # open between two requests, the longest first

    class Limited(HttpToolsProtocol):
        _in_headers: bool
        _ignores_upgrade: bool
        _header_bytes: int  # that have been received, with some of the body
        _field_bytes: int  # of the headers that are complete

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._connection = transport
            self._cycles: deque[Any] = deque()  # of requests that are not answered
            self._timer: asyncio.TimerHandle | None = None
            self._unread_timer: asyncio.TimerHandle | None = None
            self._ends = False
            self._begin_headers()
            self._abort_in(min(settings.idle_s, _LAST_REQUEST_S) if ending() else settings.idle_s)
            if len(self.connections) > settings.max_connections and idle:
                oldest = next(iter(idle))
                del idle[oldest]
                self.connections.discard(oldest)
                oldest._connection.close()

        def shutdown(self) -> None:
            """The server ends: close once everything is answered. A request that is still on its way is, as well."""
            if self._in_headers and not self._cycles and (self.cycle is None or self._header_bytes):
                self._stop_timer()
                self._timer = asyncio.get_running_loop().call_later(_LAST_REQUEST_S, self._connection.close)
            else:
                super().shutdown()

        def eof_received(self) -> None:
            self._gone()  # uvloop closes the connection: nothing can be answered any more

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._gone()
            super().connection_lost(exc)

        def _gone(self) -> None:
            """Tell all requests that wait on this connection; uvicorn tells the last one only."""
            idle.pop(self, None)
            self.pipeline.clear()
            for cycle in self._cycles:
                cycle.disconnected = True
                cycle.message_event.set()
            self._cycles.clear()

        def data_received(self, data: bytes) -> None:
            if self._ends or self._connection.is_closing():
                return
            idle.pop(self, None)
            self._unset_keepalive_if_required()
            if self._in_headers:
                self._header_bytes += len(data)
                if self._timer is None:  # of a second request; the first one has the timer of its connection
                    self._abort_in(settings.idle_s)
            try:
                self._feed(memoryview(data))
            except httptools.HttpParserError:
                self._refuse(BadRequestError("the bytes are no HTTP/1.1 request"))
                return
            if self._in_headers and self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError())

        def _feed(self, data: memoryview) -> None:
            while True:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    if not self._ignores_upgrade:  # CONNECT, which is refused
                        return
                    # httptools cannot be told to go on as if nobody had asked for another protocol: it gets the
                    # request again, without that.
                    data = data[upgrade.args[0] :]
                    self._ignores_upgrade, self._field_bytes = False, 0
                    head = self._without_upgrade()
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)

        def _without_upgrade(self) -> bytes:
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (self._method, self.url, version)]
            for name, value in self.headers:
                if name == b"connection":
                    tokens = (token.strip() for token in value.split(b","))
                    value = b", ".join(token for token in tokens if token.lower() != b"upgrade")
                if name != b"upgrade":
                    lines.append(name + b": " + value)
            return b"\r\n".join(lines) + b"\r\n\r\n"

        def _refuse(self, refusal: Refusal) -> None:
            """Answer bytes that are no request, and close, once the requests before them are answered."""
            if self._connection.is_closing():
                return
            self._ends = True
            if self._in_headers:  # else the application counts it: its request ends without an answer
                refused(status=refusal.status, client=self.client[0] if self.client else None)
            if self._cycles and self._in_headers:
                self._stop_timer()
                self._cycles[-1].keep_alive = False
                return
            if not any(cycle.response_started for cycle in self._cycles):
                body = msgspec.json.encode({"error": str(refusal)})
                head = [
                    b"HTTP/1.1 %d %b" % (refusal.status, HTTPStatus(refusal.status).phrase.encode()),
                    *(name + b": " + value for name, value in HEADERS),
                    b"content-type: application/json",
                    b"content-length: %d" % len(body),
                    b"connection: close",
                ]
                self._connection.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
            self._gone()
            self._connection.close()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_headers:  # trailers, of which nobody reads anything, would add to the headers
                self._field_bytes += len(name) + len(value) + _PER_FIELD
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._method = self.parser.get_method()
            if self.parser.should_upgrade() and self._method != b"CONNECT":
                self._ignores_upgrade = True
                return
            self._in_headers = False
            self._stop_timer()
            refusal: Refusal | None = None
            is_over = len(self.connections) > settings.max_connections
            if self._field_bytes + len(self.url) > MAX_HEADER_BYTES:
                refusal = HeadersTooLargeError()
            elif is_over and self.url not in _OPEN:
                refusal = BusyError(too_many)
            self.scope["refused"] = refusal  # type: ignore[typeddict-unknown-key]
            super().on_headers_complete()
            while self._cycles and self._cycles[0].response_complete:
                self._cycles.popleft()
            self._cycles.append(self.cycle)
            if refusal is not None or self._method == b"CONNECT" or is_over or ending():
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                return
            self.cycle.body += body
            if len(self.cycle.body) > _BUFFERED:
                self.flow.pause_reading()
            self.cycle.message_event.set()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            while self._cycles and self._cycles[0].response_complete:
                self._cycles.popleft()
            if self._connection.is_closing() or self._cycles:
                return
            if self._in_headers:
                if not self._header_bytes:
                    idle[self] = None
            else:
                # Answered before its body was read, so nobody waits for the rest of it but this timer.
                self._unread_timer = asyncio.get_running_loop().call_later(settings.idle_s, self._connection.abort)

        def on_message_complete(self) -> None:
            if self._ignores_upgrade:
                return
            super().on_message_complete()
            if self._unread_timer is not None:
                self._unread_timer.cancel()
            self._begin_headers()

        def _begin_headers(self) -> None:
            self._in_headers, self._ignores_upgrade = True, False
            self._header_bytes = self._field_bytes = 0

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_timer()
            self._abort_in(settings.timeout_s)

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
