"""A kind of input: how a case of it is made from a seed, and what its reader may do with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from alexnet_deploy.errors import DeployError

OUTCOMES = ("refused", "right", "unchecked", "traceback", "hang", "wrong")
Outcome = Literal["refused", "right", "unchecked", "traceback", "hang", "wrong"]
"""``unchecked``: accepted, and nothing but the reader itself knows what the damaged file now means."""
FAULTS = ("traceback", "hang", "wrong")
_MAX_MESSAGE = 2000


class CaseError(Exception):
    """A case could not be made: a bug of the fuzz, not of a reader."""


class WrongError(Exception):
    """The reader accepted a case, and its result is not what the case says."""


class UncheckedError(Exception):
    """The reader accepted a case whose meaning only the reader knows."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input on disk. ``read`` reads it, and raises DeployError, WrongError or UncheckedError; else it is right."""

    what: str
    """What was changed, for people."""
    read: Callable[[], object]
    expect: Literal["any", "right", "refused"] = "any"
    """``right``: the change keeps the meaning; ``refused``: the change destroys it."""


class Kind(Protocol):
    """A reader, with the sound inputs that its cases are made from."""

    name: str
    share: float
    """Its part of all cases, relative to the others: readers that are slow have fewer."""

    def prepare(self, folder: Path) -> None:
        """Make what all cases share; ``folder`` is empty and stays."""

    def make(self, rng: random.Random, folder: Path) -> Case:
        """Write one case into ``folder``, which is empty. The same state of ``rng`` gives the same case."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a case, and the reason for people."""

    kind: str
    seed: int
    outcome: Outcome
    detail: str = ""
    what: str = ""

    @property
    def is_fault(self) -> bool:
        return self.outcome in FAULTS


def run_case(kind: Kind, seed: int, folder: Path) -> Result:
    """Make and read the case ``seed`` of ``kind`` in ``folder``, which is empty."""
    try:
        case = kind.make(random.Random(f"{kind.name}/{seed}"), folder)
    except Exception as exc:
        raise CaseError(f"{kind.name} {seed}") from exc

    def result(outcome: Outcome, detail: str = "") -> Result:
        return Result(kind.name, seed, outcome, detail.replace(str(folder), "..."), case.what)

    try:
        case.read()
    except DeployError as exc:
        message = str(exc)
        if len(message.splitlines()) != 1 or not message.isprintable() or len(message) > _MAX_MESSAGE:
            return result("wrong", f"its message is not one readable line: {message[:300]!r}")
        if case.expect == "right":
            return result("wrong", f"refused, though sound: {message}")
        return result("refused", message)
    except WrongError as exc:
        return result("wrong", str(exc))
    except UncheckedError:
        return result("wrong", "accepted, though destroyed") if case.expect == "refused" else result("unchecked")
    return result("wrong", "accepted, though destroyed") if case.expect == "refused" else result("right")
