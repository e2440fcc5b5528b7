"""SIGINT and SIGTERM during a command that trains: it ends at once, or where a run can go on later."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_deploy.errors import DeployError
from training.run_files import STATE_FILE


class Interrupted(DeployError):
    """SIGINT or SIGTERM arrived; the message says what is saved, and how to go on."""

    exit_code = 130


class Stop:
    """What the handler does: outside of ``held`` it raises KeyboardInterrupt, within it notes that it was ``asked``."""

    asked = False

    def __init__(self) -> None:
        self._held = False

    def arrive(self, number: int, frame: object) -> None:
        """The handler of both signals."""
        self.asked = True
        if not self._held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """For work that ends by itself, soon after ``asked`` is true, and saves: whoever uses it asks until its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False


_current: list[Stop] = []
"""The one of the command; handlers belong to the process, and so does this."""


@contextmanager
def stop_signals(output: Path) -> Iterator[Stop]:
    """Handle both signals; within another call, that one's ``Stop``, so that a command has one from start to end.

    A KeyboardInterrupt becomes Interrupted, which says whether ``output`` has something to go on from.
    """
    if _current:
        yield _current[0]
        return
    stop = Stop()
    _current.append(stop)
    previous = {number: signal.signal(number, stop.arrive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except KeyboardInterrupt as exc:
        has_state = next(output.rglob(STATE_FILE), None) is not None
        how = "continue with `resume`" if has_state else "nothing was trained yet; start it again"
        raise Interrupted(f"{output}: stopped; {how}") from exc
    finally:
        _current.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
