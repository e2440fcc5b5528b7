"""Where a command writes the checkpoint that it makes, looked at before the minutes of work and not after them."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_deploy.errors import UnavailableError, UsageError


def check_target(flag: str, target: Path | None, source: Path) -> Path:
    """``target``, which ``flag`` gives, where a checkpoint made of ``source`` can be written to it.

    UsageError where it is no .safetensors file or ``source`` itself; UnavailableError where it cannot be written.
    Nothing is made on disk.
    """
    if target is None or target.suffix != ".safetensors":
        raise UsageError(f"{flag} {target or ''}: takes the .safetensors file to write, such as small.safetensors")
    real = os.path.realpath(target)
    if real == os.path.realpath(source):
        raise UsageError(f"{flag} {target}: is the checkpoint that it is made of; choose another name")
    folder = os.path.dirname(real)
    while not os.path.lexists(folder):  # it will be made
        folder = os.path.dirname(folder)
    if os.path.isdir(real) or not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        in_the_way = real if os.path.isdir(real) else folder
        raise UnavailableError(f"{flag} {target}: cannot be written because of {in_the_way}; choose another place")
    return target
