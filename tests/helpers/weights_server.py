"""An HTTP or HTTPS server on this machine that cuts, changes, refuses and damages what it sends, as a test asks."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEIGHTS = bytes(range(256)) * 1200
"""300 KiB: several chunks."""


@dataclass
class Answer:
    """What the server does with one request."""

    body: bytes = WEIGHTS
    status: int = 200
    etag: str = '"v1"'
    ranges: bool = True
    if_range: bool = True
    range_start: int | None = None  # where a range begins, whatever was asked
    range_bytes: int | None = None  # the most that one range answer holds
    cut_after: int | None = None  # body bytes sent before the connection is closed
    stalls: bool = False  # instead of being closed, it stays open and silent until the client leaves
    headers_end: bool = True  # else nothing follows them, and the client waits for more
    announce: bool = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """Answers in order, the last one again and again; records what was asked and how much was sent."""

    url: str
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running server that answers every request with ``WEIGHTS`` until ``answers`` says otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append({key.lower(): value for key, value in self.headers.items()} | {"path": self.path})
            answer, start = state.next_answer(), 0
            wanted = self.headers.get("Range")
            if wanted and answer.ranges and (not answer.if_range or self.headers.get("If-Range") == answer.etag):
                start = answer.range_start or int(wanted.removeprefix("bytes=").removesuffix("-"))
            body = answer.body[start:]
            if start:
                body = body[: answer.range_bytes]
            if start and not body:
                self.send_response(416)
            else:
                self.send_response(206 if start else answer.status)
            if start and body:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(answer.body)}")
            if answer.etag:
                self.send_header("ETag", answer.etag)
            if answer.announce:
                self.send_header("Content-Length", str(len(body)))
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if not answer.headers_end:
                self.flush_headers()
                self.rfile.read(1)
                return
            self.end_headers()
            part = body[: answer.cut_after]
            state.sent.append(len(part))  # before the write: the client may be done with it before this thread goes on
            self.wfile.write(part)
            if answer.stalls:
                self.rfile.read(1)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # client hung up: intended
    if tls is not None:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    state = Server(f"{'http' if tls is None else 'https'}://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
