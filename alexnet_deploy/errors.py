"""Every error that the user can fix.

    DeployError               exit 1
    ├── UsageError            exit 2: a parameter is out of range, missing, or contradicts another
    ├── InputError            an input cannot be used: image, folder, ONNX, checkpoint, label file
    ├── ArtifactError         a file of ours is damaged, edited, or of another schema
    │   └── ReplacedError     an engine changed while it was read; another try may succeed
    ├── ProofError            a result failed its proof: parity, achieved precision
    └── UnavailableError      this machine lacks a package, a device or room for the job

Every message is one line: the file or parameter, the cause, the next step. A parameter is in backticks as Python
calls it (`max_batch` 64 exceeds ...); the command line writes its flag instead. ``cli.main`` alone turns a DeployError
into an exit code. Any other exception is our bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)`")


def printable(text: str) -> str:
    """``text`` with line breaks and control characters as escapes, safe for a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: object, limit: int = 300) -> str:
    """The message of another library's exception on one line, at most ``limit`` characters; its type if empty.

    Its backticks become plain quotes: in our messages they mark a parameter.
    """
    return " ".join(str(error).split()).replace("`", "'")[:limit] or type(error).__name__


class DeployError(Exception):
    """Base of all errors whose message is for the user. It may quote a hostile file, so ``printable`` escapes it."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    def rename_parameters(self, called: Callable[[str], str]) -> None:
        """Replace each parameter in backticks by the result of ``called`` for its name."""
        self.args = (_PARAMETER.sub(lambda found: called(found[1]), str(self)),)


class UsageError(DeployError):
    """A parameter is out of range, missing, or contradicts another."""

    exit_code = 2


def require_positive(**parameters: int | None) -> None:
    """UsageError that names the first of ``parameters`` below 1; None stands for a default."""
    for name, value in parameters.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` {value}: must be 1 or more")


def require_one_of(choices: Sequence[str], **parameters: object) -> None:
    """UsageError that names the first of ``parameters`` that is none of ``choices``."""
    for name, value in parameters.items():
        if value not in choices:
            raise UsageError(f"`{name}` {value}: unknown; choose one of {', '.join(choices)}")


class InputError(DeployError):
    """An input cannot be used: image, folder, ONNX, checkpoint, label file."""


class ArtifactError(DeployError):
    """A file of ours is damaged, edited, or of another schema."""


class ReplacedError(ArtifactError):
    """The files of an engine changed while they were read: what was read may be of two engines. Try again."""


class ProofError(DeployError):
    """A result failed its proof; nothing of it is left on disk."""


class UnavailableError(DeployError):
    """This machine lacks a package, a device or room for the job; the message is ``cause``, then ``fix`` if given."""

    def __init__(self, cause: str, fix: str = "") -> None:
        super().__init__(f"{cause}; {fix}" if fix else cause)
        self.cause, self.fix = printable(cause), printable(fix)
