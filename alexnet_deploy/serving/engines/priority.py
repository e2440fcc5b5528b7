"""The event loop comes first: threads that decode and compute leave it the processor when it has something to do."""

from __future__ import annotations

import os
import sys
import threading

_NICE = 5
"""A third of the event loop's share of a core that both want. Without it, the loop of a server with more requests than
it can answer got a third of the core that it asked for: gRPC takes calls one turn of the loop at a time, and they
waited for up to 24 s, until gRPC itself gave them up as CANCELLED."""


def after_the_loop() -> None:
    """Lower the priority of the thread that calls it, and of those that a runtime starts from it.

    Linux only, where each thread has a nice value of its own, which its children inherit; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, 19))
