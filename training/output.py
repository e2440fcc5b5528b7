"""The output of a command that makes a checkpoint, checked before minutes of work."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import check_file


def check_output(output: Path, source: Path) -> None:
    """Raise UsageError or UnavailableError if a checkpoint made from ``source`` cannot be written to ``output``."""
    check_file(output, "output", formats=(".safetensors",))
    if os.path.realpath(output) == os.path.realpath(source):
        raise UsageError(f"`output` {output}: is the checkpoint that it is made from; choose another name")
