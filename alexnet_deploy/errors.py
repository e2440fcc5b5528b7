"""Everything that can go wrong in a way the user can mend.

    DeployError               exit 1
    ├── UsageError            exit 2: a parameter is out of range, missing, or contradicts another
    ├── InputError            something handed in cannot be used: image, folder, ONNX, checkpoint, label file
    ├── ArtifactError         a file of ours is damaged, edited, or of another schema
    ├── ProofError            a result was made and did not prove out: parity, achieved precision
    └── UnavailableError      this machine lacks a package, a device or room for the job

Every message is one line: the file or parameter, then the cause, then the next step. A parameter stands in backticks,
as Python calls it (`max_batch` 64 exceeds ...); the command line writes its flag there instead.
``cli.main`` is the one place that turns a DeployError into an exit code; any other exception is our bug
and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)`")


class DeployError(Exception):
    """Base of all errors whose message is meant for the user.

    A message may quote a damaged or hostile file; line breaks and control characters in it are written as escapes.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))

    def rename_parameters(self, called: Callable[[str], str]) -> None:
        """Replace each parameter in the message, ```max_batch```, by what ``called`` makes of its name."""
        self.args = (_PARAMETER.sub(lambda found: called(found[1]), str(self)),)


class UsageError(DeployError):
    """A parameter is out of range, missing, or contradicts another."""

    exit_code = 2


class InputError(DeployError):
    """Something handed in cannot be used."""


class ArtifactError(DeployError):
    """A file of ours is damaged, edited, or of another schema."""


class ProofError(DeployError):
    """A result was made but did not prove out; nothing of it is left on disk."""


class UnavailableError(DeployError):
    """This machine lacks a package, a device or room for the job."""
