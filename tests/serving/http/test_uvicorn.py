"""uvicorn's members that are no public interface, of which ours uses some."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from alexnet_deploy.serving.http.limits import limited_protocol
from alexnet_deploy.serving.settings import Settings


def test_uvicorn_has_the_members_that_the_limits_use() -> None:
    """They are no public interface: where this fails, read ``on_body`` of uvicorn's HttpToolsProtocol and ours."""

    found: list[bytes] = []

    async def connect() -> HttpToolsProtocol:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()

        def refused(*, status: int, client: str | None) -> None:
            raise AssertionError(status)

        ours, theirs = socket.socketpair()
        with ours:
            protocol = limited_protocol(Settings(), refused)(Config(app, log_config=None), ServerState(), {})
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=theirs)
            protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nab")
            found.append(bytes(getattr(protocol.cycle, "body", b"")))
            transport.abort()
            await asyncio.sleep(0)
            return protocol

    protocol = asyncio.run(connect())
    where = f"uvicorn {uvicorn.__version__}, used by alexnet_deploy/serving/http/limits.py"
    assert found == [b"ab"], f"cycle.body is another in {where}"
    assert protocol.cycle.response_complete in (True, False), f"cycle.response_complete is another in {where}"
    assert isinstance(getattr(protocol.cycle, "message_event", None), asyncio.Event), f"cycle.message_event in {where}"
    assert len(protocol.connections) == 0, f"connections is another in {where}"
    assert not protocol.pipeline, f"pipeline is another in {where}"
    assert protocol.cycle.disconnected in (True, False), f"cycle.disconnected is another in {where}"
    assert protocol.cycle.keep_alive in (True, False), f"cycle.keep_alive is another in {where}"
    assert protocol.headers, f"headers is another in {where}"
    assert protocol.url == b"/", f"url is another in {where}"
    assert protocol.scope.get("refused", 0) is None, f"scope is another in {where}"
    assert callable(getattr(protocol.flow, "pause_reading", None)), f"flow.pause_reading is another in {where}"
    for name in (
        "_unset_keepalive_if_required",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "pause_writing",
        "resume_writing",
    ):
        assert callable(getattr(HttpToolsProtocol, name, None)), f"{name} is no callback in {where}"
