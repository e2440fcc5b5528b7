"""A run without an end that stops in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signals(wanted: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, if ``wanted``; the second one acts as usual."""
    stop = threading.Event()
    if not wanted:
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, end)
    # Sent to a process whose look at a file coincides with another's writing; by default it would end the process.
    leases = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield stop
    finally:
        for number, handler in (*before.items(), (signal.SIGIO, leases)):
            signal.signal(number, handler)
