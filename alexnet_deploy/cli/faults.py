"""What the machine refuses, at any point of any command, as one line: memory, a path, a name."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_deploy.errors import InputError, UnavailableError, one_line
from alexnet_deploy.files.workspace import meant

_log = logging.getLogger(__name__)
_SAVES_MEMORY = ("batch", "batch_size", "batch_sizes", "workers", "concurrency", "calibration_images", "images")
"""Parameters of commands that decide how much memory they need."""
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad allocation", "bad_alloc")
"""How torch and the runtimes say it, in a RuntimeError."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A write to an open file fails with them, and does not name the file."""
_NO_FOLDER = "No usable temporary directory"
"""Python's own words: it tries to write into each that it knows."""


@contextmanager
def one_line_faults(parameters: Collection[str] = ()) -> Iterator[None]:
    """In the block, turn errors that no module can foresee at each of its lines into a DeployError.

    These are: no memory, no room on a disk, an input nested too deeply, a file that the system refuses, a name that is
    not valid Unicode. ``parameters`` are those of the command: the message names those that save memory. ``--verbose``
    shows where it was.
    """
    try:
        yield
    except MemoryError as exc:
        raise _no_memory(exc, parameters) from exc
    except RecursionError as exc:
        _log.debug("the error in full", exc_info=True)
        raise InputError("an input is nested too deeply; simplify it, or write it again") from exc
    except UnicodeEncodeError as exc:
        if not any("\ud800" <= character <= "\udfff" for character in exc.object):
            raise  # text, but not of this encoding: no name of a file is to blame
        _log.debug("the error in full", exc_info=True)
        raise InputError(f"{meant(Path(exc.object))}: is not valid Unicode; rename the file or folder") from exc
    except RuntimeError as exc:
        if not any(words in str(exc) for words in _NO_MEMORY):
            raise
        raise _no_memory(exc, parameters) from exc
    except OSError as exc:
        if exc.filename is None:
            if exc.errno == errno.EIO:
                _log.debug("the error in full", exc_info=True)
                raise UnavailableError(
                    f"a file cannot be read or written ({exc.strerror})", "check its disk, or use another one"
                ) from exc
            if exc.errno not in _NO_ROOM and _NO_FOLDER not in str(exc):
                raise
            raise _no_room(exc) from exc
        _log.debug("the error in full", exc_info=True)
        path = exc.filename if isinstance(exc.filename, int) else meant(Path(os.fsdecode(exc.filename)))
        raise InputError(f"{path}: cannot be used ({exc.strerror}); check the path and its permissions") from exc


def _no_memory(error: Exception, parameters: Collection[str]) -> UnavailableError:
    _log.debug("the error in full", exc_info=True)
    saves = [f"`{name}`" for name in _SAVES_MEMORY if name in parameters]
    fix = f"lower {' or '.join(saves)}, or " if saves else ""
    cause = f" ({one_line(error, 120)})" if str(error) else ""
    return UnavailableError(f"not enough memory{cause}", f"{fix}use a smaller model or a machine with more")


def _no_room(error: OSError) -> UnavailableError:
    _log.debug("the error in full", exc_info=True)
    used = tempfile.tempdir  # None: there are no temporary files yet
    temporary = f", or for temporary files in {used} (TMPDIR names another folder)" if used else ""
    return UnavailableError(f"a file cannot be written ({error.strerror})", f"make room on its disk{temporary}")
