"""Places for calls that are open at the same time, which no host and no connection takes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet_deploy.serving.protocol.admission.turns import Caller, Group
from alexnet_deploy.serving.refusals import BusyError


class Places:
    """``count`` places. A host may take one while it has fewer than are free, and a connection while it has fewer than
    would be free for its host.

    So a host gets half of them, the next one half of the rest, and there is one for who comes new unless as many hosts
    as ``count`` has binary digits take all they can (dynamic thresholds, Choudhury and Hahne 1998, with a factor of 1).
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._taken: Counter[Group] = Counter()

    @contextmanager
    def taken_by(self, caller: Caller) -> Iterator[None]:
        """A place for the time of the block; BusyError if the caller has its share."""
        by_host, by_connection = (self._taken[group] for group in caller.groups)
        if by_connection >= self._free - by_host:
            raise BusyError(
                f"this connection has {by_connection} calls open and its host {by_host}, which is their share while "
                f"{self._free} places are free; wait for some to end"
            )
        self._free -= 1
        self._taken.update(caller.groups)
        try:
            yield
        finally:
            self._free += 1
            for group in caller.groups:
                self._taken[group] -= 1
                if not self._taken[group]:
                    del self._taken[group]
