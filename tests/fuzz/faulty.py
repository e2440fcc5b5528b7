"""Readers with a fault each, to try the fuzz itself."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from alexnet_deploy.errors import InputError
from tests.fuzz.kind import Case, UncheckedError, WrongError


class FaultyKind:
    """Every case ends in the same way."""

    share = 1.0

    def __init__(self, name: str, read: Callable[[], object]) -> None:
        self.name = name
        self._read = read

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, rng: random.Random, folder: Path) -> Case:
        (folder / "input").write_text("x")
        return Case("a fault", self._read)


def _refuse() -> None:
    raise InputError("x: is refused; do something else")


def _two_lines() -> None:
    error = InputError("x")
    error.args = ("two\nlines",)
    raise error


def _wrong() -> None:
    raise WrongError("other pixels")


def _unchecked() -> None:
    raise UncheckedError


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hungry() -> None:
    bytearray(1 << 40)


_READERS: dict[str, Callable[[], object]] = {
    "right": lambda: None, "refused": _refuse, "unchecked": _unchecked, "wrong": _wrong, "two-lines": _two_lines,
    "traceback": lambda: os.environ["NO_SUCH_VARIABLE"], "hang": signal.pause, "dies": _die, "hungry": _hungry,
}  # fmt: skip
KINDS = {name: FaultyKind(name, read) for name, read in _READERS.items()}
