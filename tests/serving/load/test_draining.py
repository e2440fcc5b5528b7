"""The end of the HTTP server: whoever has connected gets an answer, and no connection is reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn import Config

from alexnet_deploy.serving.http.draining import DrainingServer
from alexnet_deploy.serving.http.limits import limited_protocol
from alexnet_deploy.serving.listening import listening
from alexnet_deploy.serving.settings import Settings
from tests.serving.running import PATIENCE_S, Server, serving

GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes; ConnectionResetError if it does so rudely."""
    got = b""
    while piece := connection.recv(1 << 16):
        got += piece
    return got


def test_what_the_kernel_has_connected_is_answered() -> None:
    """The loop does not run between the clients' connecting and the end, as where it is busy with other requests."""
    clients: list[socket.socket] = []

    class BusyUntilTheEnd(DrainingServer):
        async def main_loop(self) -> None:
            for _ in range(40):
                clients.append(socket.create_connection(address, timeout=PATIENCE_S))
                clients[-1].sendall(GET)

    def refused(*, status: int, client: str | None) -> None:
        raise AssertionError(status)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(Settings(port=0)))
        address = listener.getsockname()
        protocol = limited_protocol(Settings(), refused, lambda: True)
        server = BusyUntilTheEnd(Config(hello, http=protocol, lifespan="off", ws="none", log_config=None))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))
        for client in clients:
            stack.enter_context(client)
            answer = all_of(client)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"ok")
        assert len(clients) == 40


@pytest.mark.parametrize(
    ("before", "is_first"), [(b"", True), (GET[:9], True), (GET[:9], False)], ids=["connected", "begun", "begun again"]
)
def test_a_request_that_is_on_its_way_is_answered(workplace: Path, before: bytes, is_first: bool) -> None:
    """The client has connected, and learns only by ``connection: close`` that its server ends.

    A connection that is idle after an answer is closed, as HTTP lets every server do.
    """
    with serving(workplace, "exact") as server, server.raw() as client:
        if not is_first:
            client.sendall(GET)
            got = b""
            while not got.endswith(b'"]}'):
                got += client.recv(1 << 16)
        client.sendall(before)
        server.ask("GET", "/v2")  # what came before has been read
        server.process.terminate()
        wait_until_it_accepts_nothing(server)
        client.sendall(GET[len(before) :])
        answer = all_of(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert server.wait() == 0


def wait_until_it_accepts_nothing(server: Server) -> None:
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            server.raw().close()
