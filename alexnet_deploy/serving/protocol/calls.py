"""Around every gRPC call: who asks, how long it took, what the answer was, and no traceback for a client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio

from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.protocol.admission.places import Places
from alexnet_deploy.serving.protocol.admission.reading import Messages
from alexnet_deploy.serving.protocol.admission.turns import Caller
from alexnet_deploy.serving.refusals import EngineError, Refusal
from alexnet_deploy.serving.security import Keys
from alexnet_deploy.serving.tracing import span

_log = logging.getLogger(__name__)
T = TypeVar("T")

Method = Callable[[Any, dict[str, Any], Any], Awaitable[Any]]
"""Request, facts for the access log, context -> response."""


@dataclass(slots=True)
class Call:
    """One call, or one request of a stream: what the access log and the metrics get to know."""

    facts: dict[str, Any] = field(default_factory=dict)
    code: str = "CANCELLED"


class Calls:
    """What all calls have in common: places, keys, metrics, access log, spans, refusals."""

    def __init__(self, places: Places, keys: Keys, metrics: Metrics, access_log: AccessLog | None) -> None:
        self._places, self._keys, self._metrics, self._access_log = places, keys, metrics, access_log

    @contextmanager
    def recorded(self, name: str, operation: str, context: Any) -> Iterator[Call]:
        """Log and count what happens in the block, which sets the code of the call."""
        started = time.perf_counter()
        call = Call()
        try:
            with span("request", parent=_headers(context), path=name):
                yield call
        finally:
            seconds = time.perf_counter() - started
            self._metrics.requests.labels("grpc", operation, call.facts.get("model", ""), call.code).inc()
            self._metrics.request_seconds.labels("grpc", operation).observe(seconds)
            if self._access_log is not None:
                client = context.peer()
                self._access_log(
                    protocol="grpc", path=name, status=call.code, seconds=seconds, client=client, **call.facts
                )

    def check_key(self, context: Any) -> None:
        """UnauthenticatedError unless the call carries a key, or none is needed."""
        self._keys.check(_headers(context))

    def unary(
        self,
        name: str,
        operation: str,
        messages: Messages,
        request: Any,
        method: Method,
        *,
        needs_key: bool = True,
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """The handler of a call with one message of the class ``request`` and one answer."""

        async def work(call: Call, context: Any) -> Any:
            if needs_key:
                self.check_key(context)
            async with messages.read(context, request) as message:
                return await method(message, call.facts, context)

        async def handle(_: Any, context: Any) -> Any:
            return await self.run(name, operation, context, work)

        return handle

    async def run(self, name: str, operation: str, context: Any, work: Callable[[Call, Any], Awaitable[T]]) -> T | None:
        """What ``work`` returns; an error in it ends the call with a status. It is logged and counted."""
        with self.recorded(name, operation, context) as call:
            try:
                with self._places.taken_by(Caller.of(context.peer())):
                    answer = await work(call, context)
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                refusal = refusal_of(exc)
            else:
                call.code = "OK"
                return answer
            await refuse(context, refusal, call)
            return None


async def refuse(context: Any, refusal: Refusal, call: Call) -> None:
    """End the call with a status: raises what gRPC ends it with.

    gRPC keeps that exception, with everything that can be reached from it, until Python collects circles: call this
    outside of an ``except``, and where no local variable holds the request.
    """
    call.code = refusal.code
    again: tuple[tuple[str, str], ...] = ()
    if refusal.retry_after_s is not None:
        again = (("grpc-retry-pushback-ms", str(1000 * refusal.retry_after_s)),)
    try:
        await context.abort(grpc.StatusCode[refusal.code], str(refusal), again)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:  # gRPC itself has ended it meanwhile
        raise asyncio.CancelledError from gone


def refusal_of(exc: Exception) -> Refusal:
    """``exc`` itself, or for what should not happen one that refers to the log, where it is.

    Without its traceback, whose frames hold the request. A call that has ended already is as cancelled: its client has
    left, or gRPC itself has refused its message.
    """
    if isinstance(exc, grpc.aio.BaseError):
        raise asyncio.CancelledError from exc
    if isinstance(exc, Refusal):
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None
        return exc
    _log.error("a request failed", exc_info=exc)
    return EngineError("this server failed; its log has the reason")


def _headers(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
