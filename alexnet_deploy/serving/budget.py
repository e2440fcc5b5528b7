"""The memory that bodies of requests may take, of HTTP and gRPC together."""

from __future__ import annotations

from collections.abc import Callable

from alexnet_deploy.serving.refusals import BusyError
from alexnet_deploy.serving.settings import Settings


class BodyBudget:
    """Counts the bytes of all bodies that are in memory, and refuses more than ``max_memory``.

    Used on the event loop only.
    """

    def __init__(self, settings: Settings, show: Callable[[int], None]) -> None:
        """``show`` is called with the bytes that are taken, whenever they change."""
        self._limit = settings.max_memory
        self._show = show
        self._held = 0

    def hold(self, size: int) -> None:
        """Take ``size`` bytes, or give back ``-size``; BusyError if there are not so many."""
        if size > 0 and self._held + size > self._limit:
            raise BusyError("the bodies of other requests take all memory that is set aside; try again later")
        self._held += size
        self._show(self._held)
