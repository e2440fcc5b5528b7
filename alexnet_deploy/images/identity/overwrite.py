"""An output never replaces an input: neither under another name, nor through a link."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import is_inside, open_regular
from alexnet_deploy.images.codecs.formats import starts_as_image
from alexnet_deploy.images.sources import Source

S = TypeVar("S", bound=Path | Source)
_START = 256
"""Bytes that tell what a file is; of a PNG, they hold the program that wrote it."""
_DRAWN = (b"Software\0Matplotlib", b"Software\0alexnet-deploy")
"""What ``report.plots`` and ``explanation.grid`` write into a PNG."""


def refuse_to_replace(
    output: Path, inputs: Iterable[str | Path], *, parameter: str = "output", is_picture: bool = False
) -> None:
    """UsageError if ``output`` exists and is one of ``inputs``, or is any image: a photo is nobody's output.

    ``inputs`` may be anything that a user names; what is no file is passed over. Where the output ``is_picture``, an
    image that says that this package drew it may be replaced, unless it lies in a folder of ``inputs``.
    """
    try:
        existing = os.stat(output)
        with open_regular(output) as stream:
            start = stream.read(_START)
    except OSError:
        return  # nothing to lose, or ``check_file`` reports it
    is_image = starts_as_image(start)
    for text in inputs:
        if _is_same(existing, Path(text)):
            raise UsageError(f"`{parameter}` {output}: is the same file as the input {text}; choose another name")
        if is_image and is_inside(output, Path(text)):
            raise UsageError(f"`{parameter}` {output}: is an image of the input {text}; choose another name")
    if is_image and not (is_picture and any(mark in start for mark in _DRAWN)):
        raise UsageError(f"`{parameter}` {output}: is an image, which would be lost; choose another name")


def refusing_to_replace(images: Iterable[S], output: Path, *, parameter: str = "output") -> Iterator[S]:
    """``images``; UsageError at the one that is the file ``output``."""
    try:
        existing = os.stat(output)
    except OSError:
        yield from images
        return
    for image in images:
        path = image.read if isinstance(image, Source) else image
        if isinstance(path, Path) and _is_same(existing, path):
            raise UsageError(f"`{parameter}` {output}: is the same file as the input {path}; choose another name")
        yield image


def _is_same(existing: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(existing, os.stat(path))
    except (OSError, ValueError):  # a name with a NUL byte
        return False
