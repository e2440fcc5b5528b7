"""An engine that is replaced while it is read: noticed, so that labels and weights are never of two engines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from alexnet_deploy.errors import DeployError, ReplacedError

T = TypeVar("T")
_WATCHED_MODELS = 256  # whose files of weights are kept in mind, else a look would read the model each time
_ATTEMPTS = 5  # of reading an engine that is being replaced; each takes seconds


def look(path: Path) -> str | None:
    """Something that differs once an engine (bundle or ONNX file) has been replaced, also by itself; None without one.

    Of a bundle every file counts: its manifest may be copied long before its model. Of a new ONNX the whole file is
    read, for the names of the files of its weights.
    """
    with suppress(OSError, ValueError):
        found = _stamp(os.lstat(path)), _stamp(os.stat(path))
        if os.path.isdir(path):
            files = [path / name for name in sorted(os.listdir(path))]
        else:
            files = list(_weights_of(path, found))
        stamps = found, [(os.fsencode(file.name), _stamp(os.stat(file))) for file in files]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()
    return None


def _stamp(of: os.stat_result) -> tuple[int, ...]:
    return of.st_dev, of.st_ino, of.st_ctime_ns, of.st_size


@lru_cache(_WATCHED_MODELS)
def _weights_of(onnx_path: Path, stamps: tuple[tuple[int, ...], ...]) -> tuple[Path, ...]:
    """The other files of the ONNX that has these ``stamps``."""
    from alexnet_deploy.onnx_graph.weights_data import external_files

    return tuple(sorted(external_files(onnx_path)))


@contextmanager
def unreplaced(path: Path) -> Iterator[None]:
    """Raise ReplacedError at the end of the block, also instead of its own error, if an engine changed within it."""
    seen = look(path)
    try:
        yield
    except (DeployError, OSError, ValueError) as exc:  # a file is gone, or half of it
        if look(path) != seen:
            raise _replaced(path) from exc
        raise
    if look(path) != seen:
        raise _replaced(path)


def _replaced(path: Path) -> ReplacedError:
    return ReplacedError(f"{path}: was replaced while it was read; wait until its writer is done, and try again")


def retried(read: Callable[[], T]) -> T:
    """What ``read`` returns, which is called again, a few times, while it raises ReplacedError."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(ReplacedError):
            return read()
    return read()
