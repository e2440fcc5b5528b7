"""The messages of gRPC calls, read with limits. Only one that is being read is in memory whole.

gRPC itself would read the message of every call at once. Each call is therefore declared as a stream of requests, which
looks the same to clients, and its message is asked for when there is room for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.protocol.admission.fields import require_few_fields
from alexnet_deploy.serving.protocol.admission.turns import Caller, Group, Turns
from alexnet_deploy.serving.refusals import BadRequestError, TooSlowError
from alexnet_deploy.serving.settings import Settings

_QUICK_S = 0.1
"""Within this time a message is there, unless it is large, its network slow, or its client silent."""
_SHARED_S = 2.0
"""For so long a slow message is waited for while another client waits that has fewer calls; divided by their number."""


@dataclass(eq=False, slots=True)
class _Reading:
    """A message that is being read: when it must have arrived, and since when it keeps no turn from others."""

    caller: Caller
    limit: asyncio.Timeout
    slow_since: float | None = None
    timer: asyncio.TimerHandle | None = None


class Messages:
    """Reads the messages of calls, ``at_once`` at the same time. The other calls wait, for ``timeout_s`` at most.

    A call whose message is not there within ``_QUICK_S`` gives its turn to others, where it is one of a few: half as
    many as have turns. If there are more, one is cut off after ``patience_s``, and while clients wait that have fewer
    calls (other hosts, other connections of the host) after ``_SHARED_S`` divided by their number, but not before
    ``_QUICK_S``. It is one of the host, and of the connection, with the most calls, the slowest of these.
    """

    def __init__(self, settings: Settings, budget: BodyBudget | None, at_once: int, patience_s: float) -> None:
        """``budget`` None: what is read here does not count, as it must not be refused for the bodies of others."""
        self._max_body, self._timeout_s, self._patience_s = settings.max_body, settings.timeout_s, patience_s
        self._budget = budget
        self._turns = Turns(at_once)
        self._reading: Counter[Group] = Counter()
        self._slow: list[_Reading] = []
        self._most_slow = -(-at_once // 2)

    @asynccontextmanager
    async def read(self, context: Any, request: Any) -> AsyncIterator[Any]:
        """The first message of a call, of the class ``request``; its memory counts until the end of the block.

        Raises BusyError where the bodies of others take all memory, TooSlowError for a message that does not arrive in
        time, BadRequestError for a call without one. A message above the limit is refused by gRPC itself.

        A full queue does not refuse a call before its message is read, for only the message says whose queue it is.
        """
        try:
            async with self._turn(Caller.of(context.peer())):
                self._hold(self._max_body)  # gRPC does not say how large it will be
                try:
                    content = await context.read()
                finally:
                    self._hold(-self._max_body)
        except TimeoutError:
            raise TooSlowError("the message, or those before it, arrive too slowly; send it again") from None
        if content is grpc.aio.EOF:
            raise BadRequestError("the call has no message that can be read; send one")
        size = len(content)
        self._hold(size)  # cannot fail: there was room for a larger one
        try:
            message = parsed(request, content)
            del content  # the message has a copy
            yield message
        finally:
            self._hold(-size)

    @asynccontextmanager
    async def _turn(self, caller: Caller) -> AsyncIterator[None]:
        async with asyncio.timeout(self._timeout_s) as limit:
            await self._turns.acquire(caller)
            reading = _Reading(caller, limit)
            self._reading.update(caller.groups)
            self._look_again(reading)
            try:
                yield
            finally:
                assert reading.timer is not None
                reading.timer.cancel()
                self._reading.subtract(caller.groups)
                self._reading += Counter()  # without those that have none
                if reading in self._slow:
                    self._slow.remove(reading)
                if reading.slow_since is None:
                    self._turns.release()

    def _look_again(self, reading: _Reading) -> None:
        reading.timer = asyncio.get_running_loop().call_later(_QUICK_S, self._make_way, reading)

    def _make_way(self, reading: _Reading) -> None:
        """Give the turn of a slow message to others, as soon as there is room for it among the slow ones."""
        now = asyncio.get_running_loop().time()
        if len(self._slow) == self._most_slow:
            if (victim := self._to_cut(now)) is None:
                self._look_again(reading)
                return
            self._slow.remove(victim)
            if not victim.limit.expired():
                victim.limit.reschedule(now)
        reading.slow_since = now
        self._slow.append(reading)
        self._turns.release()

    def _to_cut(self, now: float) -> _Reading | None:
        """The slow message that others need not wait for any longer."""

        def weight(each: _Reading) -> tuple[int, ...]:
            return tuple(self._reading[group] for group in each.caller.groups)

        for each in sorted(self._slow, key=weight, reverse=True):  # among equals the oldest first
            assert each.slow_since is not None
            waiting = self._turns.count_waiting_with_less(each.caller, self._reading)
            patience_s = min(self._patience_s, max(_SHARED_S / waiting, _QUICK_S)) if waiting else self._patience_s
            if now - each.slow_since >= patience_s:
                return each
        return None

    def _hold(self, size: int) -> None:
        if self._budget is not None:
            self._budget.hold(size)


def parsed(request: Any, content: bytes) -> Any:
    """The message of class ``request``; BadRequestError for other bytes, and for more fields than any use has."""
    require_few_fields(request.DESCRIPTOR, content)
    try:
        return request.FromString(content)
    except DecodeError as exc:
        raise BadRequestError(f"the request is no {request.DESCRIPTOR.name}") from exc
