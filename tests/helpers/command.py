"""What a command run in the process of the tests ended with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class RunResult(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error: ours, or Typer's about an option."""
        (line,) = [line for line in self.err.splitlines() if line.startswith(("error: ", "Error: "))]
        return line


Command = Callable[..., RunResult]
