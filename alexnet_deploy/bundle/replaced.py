"""An engine that is replaced while it is read: noticed, so that labels and weights are never of two engines."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from alexnet_deploy.bundle.manifest import CALIBRATION, CONFIDENCE, MANIFEST, MODEL
from alexnet_deploy.errors import DeployError, ReplacedError

T = TypeVar("T")
Look = tuple[str, str, int]
"""What the files are, and when they were last touched; what they are alone; when their folder was moved, if known."""
_Stamp = tuple[int, int, int, int, int]
_WATCHED_MODELS = 256  # whose files of weights are kept in mind, else a look would read the model each time
_ATTEMPTS = 5  # of reading an engine that is being replaced; each takes seconds


def look(path: Path) -> Look | None:
    """Something that differs once an engine (bundle or ONNX file) has been replaced, also by itself; None without one.

    Of a bundle every file that can belong to it counts: its manifest may be copied long before its model. Others that
    lie there, such as a log, do not. Of a new ONNX the whole file is read, for the names of the files of its weights.
    """
    try:
        link, found = os.lstat(path), os.stat(path)
    except (OSError, ValueError):
        return None
    own = _stamp(link) if stat.S_ISLNK(link.st_mode) else None
    if stat.S_ISDIR(found.st_mode):
        # Its own time changes with every file in it. That of a folder which was only moved is not that of its list.
        place = own, found.st_dev, found.st_ino
        moved = 0 if found.st_mtime_ns == found.st_ctime_ns else found.st_ctime_ns
        return (*_digest(place, _stamps(_files_of(path))), moved)
    stamps = _stamp(found)
    try:
        files: Sequence[Path] = _weights_of(path, stamps)
    except (OSError, ValueError):  # whoever reads it says why
        files = ()
    return (*_digest(own, {**_stamps(files), "": stamps}), 0)


def _digest(place: object, files: dict[str, _Stamp | None]) -> tuple[str, str]:
    without_ctime = {name: stamp and stamp[1:] for name, stamp in files.items()}
    first, second = (hashlib.sha256(repr((place, found)).encode()).hexdigest() for found in (files, without_ctime))
    return first, second


def _files_of(bundle: Path) -> list[Path]:
    try:
        plans = sorted(name for name in os.listdir(bundle) if name.endswith(".plan"))
    except OSError:
        plans = []
    return [bundle / name for name in (MANIFEST, MODEL, CALIBRATION, CONFIDENCE, *plans)]


def _stamps(files: Sequence[Path]) -> dict[str, _Stamp | None]:
    """Of each file; None for one that is missing, which is a look as well: else nobody would notice that it comes."""
    found: dict[str, _Stamp | None] = {}
    for file in files:
        found[str(file)] = None
        with suppress(OSError, ValueError):
            found[str(file)] = _stamp(os.stat(file))
    return found


def _stamp(of: os.stat_result) -> _Stamp:
    return of.st_ctime_ns, of.st_dev, of.st_ino, of.st_mtime_ns, of.st_size


@lru_cache(_WATCHED_MODELS)
def _weights_of(onnx_path: Path, stamps: _Stamp) -> tuple[Path, ...]:
    """The other files of the ONNX that has these ``stamps``."""
    from alexnet_deploy.onnx_graph.weights_data import external_files

    return tuple(sorted(external_files(onnx_path)))


def is_like(now: Look | None, seen: Look | None, *, touched: bool = False) -> bool:
    """Whether nothing was replaced between two looks; with ``touched`` files may have other links and permissions."""
    if now is None or seen is None:
        return now is seen
    # A new list of files hides whether the folder was moved before: an editor's lock is likelier than both.
    return (now[1] == seen[1] if touched else now[:2] == seen[:2]) and now[2] in (0, seen[2])


@contextmanager
def unreplaced(path: Path, is_same: Callable[[], bool] = lambda: False) -> Iterator[Look | None]:
    """Raise ReplacedError at the end of the block, also instead of its own error, if an engine changed within it.

    Yields the look before the block. ``is_same`` is asked where only links or permissions of files have changed:
    whether their content is the same.
    """
    seen = look(path)

    def is_kept() -> bool:
        now = look(path)
        return is_like(now, seen) or (is_like(now, seen, touched=True) and is_same() and look(path) == now)

    try:
        yield seen
    except (DeployError, OSError, ValueError) as exc:  # a file is gone, or half of it
        if not is_kept():
            raise _replaced(path) from exc
        raise
    if seen is None or not is_kept():
        raise _replaced(path)


def _replaced(path: Path) -> ReplacedError:
    return ReplacedError(f"{path}: was replaced while it was read; wait until its writer is done, and try again")


def retried(read: Callable[[], T]) -> T:
    """What ``read`` returns, which is called again, a few times, while it raises ReplacedError."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(ReplacedError):
            return read()
    return read()
