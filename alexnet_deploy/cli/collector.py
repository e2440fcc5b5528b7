"""Python's garbage collector while a command starts.

What is imported and opened then is used until the end, and to look for garbage in it takes a fifth of a short command's
time: while it starts, and once more when the process ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

is_ours = False
"""Whether the process is the command's, so ``__main__`` turned the collector off; another program's is left alone."""


def started() -> None:
    """Turn the collector on: it will never look at what is there now."""
    if is_ours and not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def starting() -> Iterator[None]:
    """A block in which a command goes on to import and to open."""
    if not (is_ours and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        started()
