"""Python's garbage collector while a command starts.

What is imported and opened then is used until the end, and to look for garbage in it takes a fifth of a short command's
time: while it starts, and once more when the process ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def started() -> None:
    """Turn the collector on where ``__main__`` turned it off: it will never look at what is there now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def starting() -> Iterator[None]:
    """A block in which a command goes on to import and to open; in a process that is not the command's, no change."""
    if not (gc.isenabled() and gc.get_freeze_count()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        started()
