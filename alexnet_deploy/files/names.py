"""Names of files: for libraries that take only text, and for records that go to other people."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.errors import InputError


@contextlib.contextmanager
def text_path(path: Path) -> Iterator[str]:
    """A name of ``path`` that is valid Unicode, for the length of the block.

    A name on Linux may be any bytes, such as a folder in Latin-1. Python opens it, but libraries in C++ and Rust take
    UTF-8 alone: for them there is a symbolic link in a temporary folder, to the folder of ``path``, where the weights
    beside an ONNX file are found as well. InputError if the temporary folder has no valid name either.
    """
    if is_text(path):
        yield str(path)
        return
    with TemporaryDirectory(prefix="alexnet-deploy-") as temporary:
        if not is_text(Path(temporary)):
            raise InputError(f"{path}: its name is not valid Unicode; rename the file or its folder")
        target = path.absolute()
        if is_text(Path(path.name)):
            link = Path(temporary, "folder")
            os.symlink(target.parent, link, target_is_directory=True)
            yield str(link / path.name)
        else:
            link = Path(temporary, "file" + (path.suffix if is_text(Path(path.suffix)) else ""))
            os.symlink(target, link)
            yield str(link)


def is_text(path: Path) -> bool:
    """Whether the name of ``path`` is valid Unicode."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_inside(file: Path, folder: Path) -> bool:
    """Whether ``file`` lies anywhere below ``folder``, or is it, behind all links."""
    try:
        return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):  # a name with a NUL byte
        return False


def shareable(text: str) -> str:
    """``text`` without the places of this machine: its absolute paths below the current folder become relative.

    Of another absolute path only the name is left, after ``.../``. ``text`` is one argument of a command, or a message.
    """
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    if os.path.isabs(value) and (": " not in value or os.path.lexists(value)):
        return f"{flag}{equals}{_relative(value)}"
    return _ABSOLUTE.sub(lambda found: _relative(found[0]), text)


_ABSOLUTE = re.compile(r"(?<![\w.~:/-])/[^\s/:;,'\"()]+(?:/[^\s/:;,'\"()]+)+")
"""An absolute path of at least two parts within a sentence; ``n/a`` and a URL are none."""


def _relative(path: str) -> str:
    for here in (os.getcwd(), os.environ.get("PWD", os.getcwd())):
        if path == here or path.startswith(here.rstrip(os.sep) + os.sep):
            return os.path.relpath(path, here)
    return f".../{os.path.basename(os.path.normpath(path))}"
