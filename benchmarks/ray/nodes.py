"""Ray nodes on loopback addresses, each on cores of its own: as many machines as this one has cores."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alexnet_deploy.machine.cpu import usable_cpus

START_S = 60


class Node:
    """One ``ray start --block`` and all processes below it."""

    def __init__(self, number: int, head: str | None, port: int, folder: Path, env: dict[str, str]) -> None:
        self.address = f"127.0.0.{number + 2}"
        core = usable_cpus()[number % len(usable_cpus())]
        where = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        command = [
            *("taskset", "-c", str(core), str(Path(sys.executable).with_name("ray")), "start", "--block"),
            *(where if head is None else [f"--address={head}"]),
            *(f"--node-ip-address={self.address}", "--num-cpus=1", f"--object-store-memory={256 << 20}"),
        ]
        self._process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "--block" in line or "Ray runtime started" in line:
                return
        raise RuntimeError(f"{' '.join(command)}: did not start")

    def kill(self) -> None:
        """End it as a power cut does: SIGKILL for every process of the node, the youngest last."""
        for pid in (self._process.pid, *_below(self._process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def cluster(count: int) -> Iterator[tuple[str, list[Node], dict[str, str]]]:
    """``count`` nodes of one core each: the address of the head, the nodes, and the environment of a driver."""
    env = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    with ExitStack() as stack:
        # Short, because the path of a Unix socket has at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)))
        nodes: list[Node] = []
        port = _free_port()
        for number in range(count):
            node = Node(number, None if number == 0 else f"127.0.0.2:{port}", port, folder, env)
            stack.callback(node.kill)
            nodes.append(node)
        yield f"127.0.0.2:{port}", nodes, env


def infer_command(arguments: Sequence[str | Path], *, cores: int | None = None) -> list[str]:
    """``alexnet-deploy infer`` with ``arguments``, on the first ``cores`` cores alone."""
    pinned = [] if cores is None else ["taskset", "-c", ",".join(map(str, usable_cpus()[:cores]))]
    return [*pinned, sys.executable, "-m", "alexnet_deploy", "infer", *map(str, arguments)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])


def _below(pid: int) -> list[int]:
    """All processes that descend from ``pid``, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found
