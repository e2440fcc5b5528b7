"""``python -m training`` in processes of its own that do not pay for its imports each time.

They are forked from a server that has imported training and begun no work: seconds less per process, and nothing else
differs from a start by hand.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing.connection import Connection

import pytest
import torch

# For the server, which imports this module: what the commands load when they begin.
import training.compress.compress
import training.folds
import training.results.evaluate  # noqa: F401

torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimizer imports torch's compiler

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__])


class TrainingProcess:
    """One started ``python -m training``, in a session of its own, whose standard error is read here."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        reader, writer = _server.Pipe(duplex=False)
        method = multiprocessing.get_start_method()
        self.process = _server.Process(target=_run, args=(method, arguments, environment, writer))
        self.process.start()
        writer.close()
        self._stderr = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_for_epoch(self, epoch: int) -> None:
        lines = []
        for line in self._stderr:
            lines.append(line)
            if line.startswith(f"epoch   {epoch}/"):
                return
        pytest.fail(f"ended before epoch {epoch}: {''.join(lines)}")

    def kill(self) -> None:
        """SIGKILL; what it leaves behind may still run when this returns."""
        self.process.kill()
        self.process.join()
        self._stderr.close()

    def finish(self) -> tuple[int | None, str]:
        """The exit code (a signal is negative) and the rest of the standard error."""
        with self._stderr as stderr:
            rest = stderr.read()
        self.process.join()
        return self.process.exitcode, rest


def _run(start_method: str, arguments: tuple[str, ...], environment: dict[str, str], stderr: Connection) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # not the server's
    os.setsid()
    os.environ.update(environment)
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    sys.argv = ["training", *arguments]
    runpy.run_module("training", run_name="__main__", alter_sys=True)
