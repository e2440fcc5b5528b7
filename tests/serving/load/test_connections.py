"""Connections: other protocols that are asked for, too many of them, refusals before and without a request."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_deploy.serving.http.limits import MAX_HEADER_BYTES
from tests.serving.running import Server, serving

CONNECTIONS = 4


@pytest.fixture(scope="module")
def small(workplace: Path) -> Iterator[Server]:
    """Few connections, one decoder, a queue of two images."""
    limits = ("--max-connections", CONNECTIONS, "--max-queue", 2, "--max-images", 2, "--workers", 1)
    with serving(workplace, "exact", *limits, "--idle", "5s") as running:
        yield running


def head(target: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *headers)).encode() + b"\r\n\r\n"


def answer_on(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Status, headers in lower case, and body of the next answer."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(1)
        assert piece, got
        got += piece
    headers = got.lower()
    length = int(headers.partition(b"content-length: ")[2].split()[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(got.split()[1]), headers, body


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


def whole(photo: bytes) -> bytes:
    return head("/classify", *UPGRADE, f"Content-Length: {len(photo)}") + photo


def chunked(photo: bytes) -> bytes:
    return head("/classify", *UPGRADE, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(photo), photo)


@pytest.mark.parametrize("make", [whole, chunked])
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
def test_an_upgrade_is_not_followed(small: Server, photo: bytes, make: Callable[[bytes], bytes], size: int) -> None:
    """As ``curl --http2`` and Java's client ask for it, with the body right behind."""
    sent = make(photo)
    cut = sent.index(b"\r\n\r\n") + 6  # the rest need not come byte by byte
    with small.raw() as connection:
        for at in range(0, cut, size):
            connection.sendall(sent[at : min(at + size, cut)])
        connection.sendall(sent[cut:] + head("/v2", *UPGRADE, f"X: {'y' * 20_000}", method="GET"))
        status, _, body = answer_on(connection)
        assert status == 200, body
        assert json.loads(body)[0]["error"] is None
        assert answer_on(connection)[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("/v2", "X: " + "y" * MAX_HEADER_BYTES, method="GET"), 431),
        (head("/" + "y" * MAX_HEADER_BYTES, method="GET"), 431),
        (head("/v2", *["a: b"] * 10_000, method="GET"), 431),
        (head("/v2", "X: " + "y" * 2 * MAX_HEADER_BYTES, method="GET")[:-4], 431),
        (b"\x16\x03\x01\x02\x00", 400),
        (head("/classify", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
    ],
    ids=["header", "target", "many", "endless", "tls", "chunk"],
)
def test_what_is_no_request_is_refused_as_json_and_counted(small: Server, sent: bytes, status: int) -> None:
    before = small.metric(f'requests_total{{code="{status}"')
    with small.raw() as connection:
        connection.sendall(sent)
        found, headers, body = answer_on(connection)
        assert found == status
        assert b"x-content-type-options: nosniff" in headers
        assert json.loads(body)["error"]
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    while (after := small.metric(f'requests_total{{code="{status}"')) == before:
        pass  # where a request had begun, its task counts it a moment later
    assert after == before + 1


def test_a_new_connection_takes_the_place_of_the_one_idle_for_longest(small: Server) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(small.raw()) for _ in range(CONNECTIONS)]
        for connection in idle:
            connection.sendall(head("/v2", method="GET"))
            assert answer_on(connection)[0] == 200
        assert small.ask("GET", "/v2").status == 200
        assert idle[0].recv(1) == b""
        idle[1].sendall(head("/v2", method="GET"))
        assert answer_on(idle[1])[0] == 200


def test_too_many_busy_connections_are_refused_except_for_health(small: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(small.raw()).sendall(head("/classify", "Content-Length: 10") + b"abc")
        answer = small.ask("GET", "/v2")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.error == f"{CONNECTIONS} connections are open, as many as this server takes; try again later"
        assert small.ask("GET", "/v2/health/ready").status == 200
    while small.ask("GET", "/v2").status == 503:  # it has not seen yet that they are gone
        pass
    assert small.metric('requests_total{code="503",model="",operation="other"') >= 1


def test_a_client_that_asks_for_much_and_leaves_is_no_error(small: Server, photo: bytes) -> None:
    for _ in range(5):
        with small.raw() as connection:
            connection.sendall((head("/classify", f"Content-Length: {len(photo)}") + photo) * 20)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 16):
                    pass
    assert small.ask("GET", "/v2").status == 200  # ``start`` sees a traceback in the log


def test_a_full_queue_refuses_before_it_reads(small: Server, large_image: bytes) -> None:
    """No body ever comes: without room it is refused at once, and not after ``--idle``."""
    over = threading.Event()

    def fill() -> None:
        while not over.is_set():
            small.ask("POST", "/classify", large_image)

    fillers = [threading.Thread(target=fill) for _ in range(3)]
    for filler in fillers:
        filler.start()
    try:
        for _ in range(100):
            with small.raw() as connection:
                connection.sendall(head("/classify", "Content-Length: 100000"))
                status, headers, body = answer_on(connection)
            if b"queue is full" in body:
                break
        assert (status, b"retry-after: 1" in headers) == (503, True)
    finally:
        over.set()
        for filler in fillers:
            filler.join()
