"""How long-running work reports its progress: one callback type for every stage."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the current stage, the steps done, and the steps in all (0: not known)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""
