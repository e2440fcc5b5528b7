"""Start what is compared, each on a free port of loopback, until the end of a ``with`` block.

All of them have two engine threads on two cores, that is one per core: alone or, with several workers, in sum.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rounds import ROOT

PATIENCE_S = 120


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. Its process group stands still while another one is measured: LitServe takes a tenth of a core
    when nobody asks it."""

    port: int
    group: int | None = None

    def pause(self) -> None:
        """Stop it, if its group is known."""
        if self.group is not None:
            os.killpg(self.group, signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """The block in which it is measured."""
        if self.group is not None:
            os.killpg(self.group, signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()


@contextlib.contextmanager
def ours(engine: Path) -> Iterator[dict[str, Server]]:
    """``serve`` with its defaults, without the access log; ``rest`` and ``grpc`` are one process."""
    command = [sys.executable, "-m", "alexnet_deploy", "serve", engine.name, "--store", engine.parent]
    command += ["--no-access-log", "--port", "0", "--grpc-port", "0"]

    def ready(log: str) -> bool:
        return "Ctrl-C ends it" in log

    with _process(command, ready) as (group, log):
        rest, grpc = map(int, re.findall(r"127\.0\.0\.1:(\d+)", log)[:2])
        yield {"rest": Server(rest, group), "grpc": Server(grpc, group)}


@contextlib.contextmanager
def litserve(python: Path, engine: Path, workers: int) -> Iterator[Server]:
    """``litserve_peer``."""
    port = free_ports(1)[0]
    command = [python, "-m", "benchmarks.serving.peers.litserve_peer", engine, port, workers]
    with _process(command, lambda _: _healthy(port, "/health")) as (group, _):
        yield Server(port, group)


@contextlib.contextmanager
def bentoml(python: Path, engine: Path, workers: int) -> Iterator[Server]:
    """``bentoml_peer``; its files go to a temporary folder."""
    port = free_ports(1)[0]
    command = [python, "-m", "bentoml", "serve", "benchmarks.serving.peers.bentoml_peer:Classifier"]
    command += ["--host", "127.0.0.1", "--port", port, "--working-dir", ROOT]
    with tempfile.TemporaryDirectory() as home:
        told = {"PEER_ENGINE": str(engine), "PEER_WORKERS": str(workers), "BENTOML_HOME": home}
        told["BENTOML_DO_NOT_TRACK"] = "True"
        with _process(command, lambda _: _healthy(port, "/readyz"), told) as (group, _):
            yield Server(port, group)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _process(
    command: list[object], ready: Callable[[str], bool], variables: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """A server until the end of the block: its process group, and its output up to when ``ready`` of it is true."""
    with tempfile.NamedTemporaryFile(suffix=".log") as file:  # a pipe that nobody reads would stop a talkative server
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
        )
        deadline = time.monotonic() + PATIENCE_S
        try:
            while not ready(log := Path(file.name).read_text(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{' '.join(map(str, command))}: not ready: {log[-3000:]}")
                time.sleep(0.1)
            yield process.pid, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                os.killpg(process.pid, signal.SIGCONT)  # it may be paused
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(port: int, path: str) -> bool:
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            client.request("GET", path)
            return client.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
