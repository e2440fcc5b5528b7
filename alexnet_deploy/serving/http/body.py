"""The body of a request, read with limits: its size, that of all bodies together, the patience with a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.refusals import BadRequestError, TooLargeError, TooSlowError
from alexnet_deploy.serving.settings import Settings

_SLOWEST = 16 << 10  # bytes per second that a client must reach on average, once its first ten seconds are over


class Bodies:
    """All request bodies that are in memory."""

    def __init__(self, settings: Settings, budget: BodyBudget) -> None:
        self._settings = settings
        self._budget = budget

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; its memory counts until the end of the block.

        Raises TooLargeError, BusyError where the bodies of others take all memory, TooSlowError for a client that
        stops or trickles, BadRequestError for a client that has left.
        """
        held = 0
        try:
            declared = request.headers.get("content-length", "0")
            self._check(int(declared[:20]))
            pieces: list[bytes] = []
            loop = asyncio.get_running_loop()
            started, stream = loop.time(), request.stream()
            while True:
                # At the beginning and after each piece: idle_s; in all: what the slowest client needs.
                allowed_s = self._settings.idle_s + held / _SLOWEST - (loop.time() - started)
                try:
                    async with asyncio.timeout(min(self._settings.idle_s, max(allowed_s, 0))):
                        piece = await anext(stream, None)
                except TimeoutError:
                    raise TooSlowError("the body arrives too slowly; send it again") from None
                if piece is None:
                    break
                self._check(held + len(piece))
                self._budget.hold(len(piece))
                held += len(piece)
                pieces.append(piece)
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except ClientDisconnect:
            raise BadRequestError("the client left before its body was complete") from None
        finally:
            self._budget.hold(-held)

    def _check(self, size: int) -> None:
        if size > self._settings.max_body:
            raise TooLargeError(f"the body has more than {self._settings.max_body} bytes; send fewer or smaller images")
