"""Around every HTTP request: who asks, how long it took, what the answer was, and no traceback for a client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.refusals import NotReadyError, Refusal, UnauthenticatedError, shown
from alexnet_deploy.serving.security import HEADERS, OPEN_PATHS, Keys
from alexnet_deploy.serving.tracing import span

_log = logging.getLogger(__name__)


class Guard:
    """The outermost ASGI application. ``scope["facts"]`` is what handlers tell the access log."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics, access_log: AccessLog | None) -> None:
        """``app`` raises Refusal or Starlette's HTTPException for what it does not answer."""
        self._app, self._keys, self._metrics, self._access_log = app, keys, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        facts: dict[str, Any] = scope.setdefault("facts", {})
        scope["app"] = self._app  # with it Starlette raises its refusals, which become JSON here
        headers = Headers(scope=scope)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            with span("request", parent=headers, path=scope["path"]):
                try:
                    if (refusal := scope.get("refused")) is not None:  # by the protocol, for its headers
                        raise refusal
                    if scope["path"] not in OPEN_PATHS:
                        self._keys.check(headers)
                    await self._app(scope, receive, answer)
                except asyncio.CancelledError:  # the server ends, and has waited as long as it may
                    if not status:
                        refusal = NotReadyError("this server is ending; ask again, or another one")
                        await _send_error(refusal, scope, answer)
                except Exception as exc:
                    if status:  # the answer has begun: only cutting it off tells the client
                        _log.error("an answer broke off", exc_info=exc)
                        raise
                    await _send_error(exc, scope, answer)
        finally:
            seconds = time.perf_counter() - started
            operation = facts.get("operation", "other")
            self._metrics.requests.labels("http", operation, facts.get("model", ""), str(status)).inc()
            self._metrics.request_seconds.labels("http", operation).observe(seconds)
            if self._access_log is not None:
                client = scope.get("client")
                self._access_log(
                    protocol="http",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=seconds,
                    client=client[0] if client else None,
                    model=facts.get("model"),
                    version=facts.get("version"),
                    images=facts.get("images"),
                )

    def refused_connection(self, *, status: int, client: str | None) -> None:
        """Count and log what never became a request."""
        self._metrics.requests.labels("http", "other", "", str(status)).inc()
        if self._access_log is not None:
            self._access_log(protocol="http", path="", status=status, seconds=0.0, client=client)


async def _send_error(exc: Exception, scope: Scope, send: Send) -> None:
    headers: Mapping[str, str] = {}
    if isinstance(exc, Refusal):
        status, text = exc.status, str(exc)
        if exc.retry_after_s is not None:
            headers = {"retry-after": str(exc.retry_after_s)}
        if isinstance(exc, UnauthenticatedError):
            headers = {"www-authenticate": 'Basic realm="alexnet-deploy", charset="UTF-8"'}
    elif isinstance(exc, HTTPException):  # a path that is there, asked with another method
        status, headers = exc.status_code, exc.headers or {}
        methods = " or ".join(sorted(headers.get("Allow", "").split(", ")))
        text = f"{shown(scope['path'])}: takes {methods}, not {shown(scope['method'])}"
    else:
        _log.error("a request failed", exc_info=exc)
        status, text = 500, "this server failed; its log has the reason"
    body = msgspec.json.encode({"error": text})
    head = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
