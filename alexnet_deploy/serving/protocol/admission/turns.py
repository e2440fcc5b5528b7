"""Turns in a fair order: who has many calls waits for them, not others."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

Turn = asyncio.Future[None]
Group = tuple[str, str]
"""Its kind, host or connection, and its name."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    host: str
    connection: str

    @classmethod
    def of(cls, peer: str) -> Caller:
        """From gRPC's name of a peer, such as ``ipv4:127.0.0.1:54321``."""
        return cls(peer.rpartition(":")[0], peer)

    @property
    def groups(self) -> tuple[Group, Group]:
        """What its calls are counted by."""
        return ("host", self.host), ("connection", self.connection)


class Turns:
    """``count`` turns at the same time. The next one goes to the hosts in rotation, and to the connections of each."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line = _Line()
        self._waiting: Counter[Caller] = Counter()

    async def acquire(self, caller: Caller) -> None:
        """Wait for a turn, which must be given back."""
        if self._free:
            self._free -= 1
            return
        turn: Turn = asyncio.get_running_loop().create_future()
        self._line.push((caller.host, caller.connection), turn)
        self._waiting[caller] += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self.release()
            raise
        finally:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]

    def release(self) -> None:
        """Give a turn back."""
        while (turn := self._line.pop()) is not None:
            if not turn.done():  # else it has left
                turn.set_result(None)
                return
        self._free += 1

    def count_waiting_with_less(self, caller: Caller, calls: Counter[Group]) -> int:
        """How many connections wait that have fewer of ``calls``, counted by groups, than ``caller`` has.

        Those of other hosts are compared by host.
        """
        return sum(
            any(calls[theirs] < calls[own] for theirs, own in _compared(other, caller)) for other in self._waiting
        )


def _compared(one: Caller, other: Caller) -> list[tuple[Group, Group]]:
    """The groups by which two callers are compared; none if they are the same."""
    (host, connection), (other_host, other_connection) = one.groups, other.groups
    if host != other_host:
        return [(host, other_host)]
    return [(connection, other_connection)] if connection != other_connection else []


class _Line:
    """Those who wait, below the names of their groups."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._lines: OrderedDict[str, _Line] = OrderedDict()

    def push(self, names: tuple[str, ...], turn: Turn) -> None:
        if not names:
            self._turns.append(turn)
            return
        if names[0] not in self._lines:
            self._lines[names[0]] = _Line()
        self._lines[names[0]].push(names[1:], turn)

    def pop(self) -> Turn | None:
        """The next one; None where nobody waits."""
        if self._turns:
            return self._turns.popleft()
        while self._lines:
            name, line = self._lines.popitem(last=False)
            if (turn := line.pop()) is not None:
                self._lines[name] = line  # at the end
                return turn
        return None
