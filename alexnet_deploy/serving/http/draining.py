"""uvicorn's server with an end that resets no connection."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Iterator, Sequence

import uvicorn

_ACCEPT_S = 1.0  # accepting a full backlog takes some 50 ms; new connections must not put off the end for ever


class DrainingServer(uvicorn.Server):
    """Leaves signals to its caller. ``limits.limited_protocol`` has the other half of its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: unlike uvicorn, the caller ends with exit code 0 once everything is answered."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, once everything is accepted that the kernel has connected, and what has arrived is read.

        Closing a socket resets the connections that it has not accepted, and those whose bytes nobody has read.
        """
        await _accept_all(sockets or ())
        await super().shutdown(sockets)


async def _accept_all(listeners: Sequence[socket.socket]) -> None:
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ACCEPT_S
    while True:
        await asyncio.sleep(0)  # a turn of the loop, which accepts and reads
        if not waiting.poll(0) or loop.time() > deadline:
            return
