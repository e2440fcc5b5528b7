"""Functions for ``IsolatedProcess`` to call."""

from __future__ import annotations

import os
import sys
import time

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import ArtifactError


def same(engine: Engine) -> Engine:
    """What was sent."""
    print("noise of a library", flush=True)
    return engine


def process_id() -> int:
    return os.getpid()


def modules() -> dict[str, str]:
    """Where the modules of the process come from."""
    return {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}


def end_by_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)  # it ends within


def raise_ours(message: str) -> None:
    raise ArtifactError(message)


def raise_bug() -> None:
    raise ZeroDivisionError("a bug")


def run_forever() -> None:
    os.write(2, b"started\n")
    while True:
        time.sleep(60)
