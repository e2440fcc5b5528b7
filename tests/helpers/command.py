"""What a command run in the process of the tests ended with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class RunResult(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., RunResult]
