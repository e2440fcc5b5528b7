"""gRPC's own health service, which Kubernetes asks: "" is the server, a model's name is that model."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.protocol.admission.reading import Messages
from alexnet_deploy.serving.protocol.calls import Call, Calls
from alexnet_deploy.serving.protocol.messages import HEALTH_METHODS, SERVICE
from alexnet_deploy.serving.refusals import BusyError, NotFoundError

_WATCHERS = 32  # nobody needs a key for it, so it must not take the places of others


class Health:
    """Check and Watch."""

    def __init__(self, models: Models, calls: Calls, messages: Messages) -> None:
        self._models, self._calls, self._messages = models, calls, messages
        self._watchers = 0

    async def check(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        """The state of a service; NotFoundError if there is none of this name."""
        return HEALTH_METHODS["Check"][1](status="SERVING" if self._is_ready(request.service) else "NOT_SERVING")

    async def watch(self, _: Any, context: Any) -> None:
        """The state of a service now, and again whenever it changes, until the client leaves or the server ends."""
        await self._calls.run("Watch", "health", context, self._report_changes)

    async def _report_changes(self, _: Call, context: Any) -> None:
        request, response = HEALTH_METHODS["Watch"]
        if self._watchers == _WATCHERS:
            raise BusyError(f"{_WATCHERS} clients watch this server already; use Check")
        self._watchers += 1
        try:
            async with self._messages.read(context, request) as message:
                service = message.service
            reported = None
            while True:
                if (status := self._status(service)) != reported:
                    await context.write(response(status=status))
                    reported = status
                elif self._models.ending:
                    break
                else:
                    await self._models.change()
        finally:
            self._watchers -= 1

    def _status(self, service: str) -> str:
        try:
            return "SERVING" if self._is_ready(service) else "NOT_SERVING"
        except NotFoundError:
            return "SERVICE_UNKNOWN"

    def _is_ready(self, service: str) -> bool:
        if service in ("", f"inference.{SERVICE}"):
            return self._models.ready
        return self._models.is_ready(service)
