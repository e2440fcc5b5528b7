"""The directory of a run, and the lock on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch.distributed as dist

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.files.lock import only_writer


@contextmanager
def only_run(folder: Path, *, held: bool = False) -> Iterator[None]:
    """Keep other runs out of ``folder``; UnavailableError where one is in it.

    Of several processes the first one does it, and none where the caller ``held`` the lock already.
    """
    leads = not dist.is_initialized() or dist.get_rank() == 0
    with only_writer(folder, "output") if leads and not held else nullcontext():
        yield


def make_writable(output: Path) -> None:
    """Make the run directory; an error if nothing can be saved there appears now, not after the first epoch."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(f"`output` {output}: cannot be made ({exc.strerror}); choose another place") from exc
    if not os.access(output, os.W_OK | os.X_OK):
        raise UnavailableError(f"`output` {output}: cannot be written; choose another place")
