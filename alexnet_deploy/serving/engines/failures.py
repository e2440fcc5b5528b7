"""When a model whose new version could not be used is tried again, and what is said about it."""

from __future__ import annotations

import re

_LONGEST_PAUSE_S = 60.0
_NUMBERS = re.compile(r"\d+")


class Failures:
    """The failed loads of one model since its files were last used. Times are in seconds, of any one clock.

    A file may be copied for minutes, and memory may be short for a while: it is tried again after ``pause_s``, then
    after twice that, up to a minute, and at once where its files have changed.
    """

    def __init__(self, pause_s: float) -> None:
        self._first_s = self._pause_s = pause_s
        self._again: float | None = None
        self._causes: set[str] = set()

    def due(self, now: float) -> bool:
        """Whether files that have not changed are to be tried again."""
        return self._again is not None and now >= self._again

    def failed(self, cause: str, now: float, *, changed: bool) -> bool:
        """Note a load that failed, of files that have ``changed`` since the last one or not; whether to report it.

        Numbers do not make another cause: a file that is being copied has another size each time.
        """
        self._pause_s = self._first_s if changed else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._again = now + self._pause_s
        known = (cause := _NUMBERS.sub("", cause)) in self._causes
        self._causes.add(cause)
        return not known

    def forget(self) -> None:
        """The files are in use."""
        self._again = None
        self._causes.clear()
