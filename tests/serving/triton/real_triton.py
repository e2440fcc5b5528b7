"""The real tritonserver of nvidia-pytriton on the CPU, and tritonclient to call it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120  # a busy machine starts it in twenty; without its libraries it would wait for ever
VARIABLE = "ALEXNET_DEPLOY_TRITON"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Triton:
    """A running server."""

    python: Path
    folder: Path
    port: int
    grpc_port: int
    log: Path

    def ask(self, *jobs: dict[str, Any]) -> list[Any]:
        """The answers to ``jobs`` of ``client.py``, which may hold paths."""
        (self.folder / "jobs.json").write_text(json.dumps(jobs, default=str))
        subprocess.run(
            [self.python, HERE / "client.py", str(self.port), str(self.grpc_port), "jobs.json", "out.json"],
            cwd=self.folder,
            check=True,
            timeout=PATIENCE_S,
            env={"PATH": os.environ["PATH"]},
        )
        return list(json.loads((self.folder / "out.json").read_text()))


def triton_python() -> Path:
    """The Python that has nvidia-pytriton and tritonclient; skips the test where there is none."""
    python = os.environ.get(VARIABLE)
    if python is None:
        pytest.skip(f"{VARIABLE} names no Python with nvidia-pytriton; run make test-triton")
    return Path(os.path.abspath(python))


@contextlib.contextmanager
def running_triton(repository: Path, folder: Path) -> Iterator[Triton]:
    """A server that has loaded every model of ``repository``."""
    python = triton_python()
    place = (
        "import pytriton, sysconfig; "
        "print(pytriton.__path__[0], *map(sysconfig.get_config_var, ('LIBDIR', 'py_version_short')))"
    )
    found = subprocess.run([python, "-c", place], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    package, libdir, version = found.stdout.split()
    server = Path(package, "tritonserver")
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    shutil.copytree(HERE / "backend", backends / "onnxruntime")
    port, grpc_port = _free_ports()
    log = folder / "triton.log"
    # The interpreter's own library first, or the stub loads the one that nvidia-pytriton brings.
    libraries = f"{libdir}:{Path(package).parent / 'nvidia_pytriton.libs'}"
    arguments = {
        "model-repository": repository,
        "backend-directory": backends,
        "http-address": "127.0.0.1",
        "http-port": port,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        "allow-metrics": "false",
        "exit-on-error": "false",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                server / "bin/tritonserver",
                "--disable-auto-complete-config",  # config.pbtxt must say everything
                *(f"--{name}={value}" for name, value in arguments.items()),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": f"{python.parent}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries, "HOME": str(folder)},
        )
    try:
        _wait_until_ready(process, port, log)
        yield Triton(python, folder, port, grpc_port, log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Ready means that every model is loaded; a model that cannot be, shows up in the log."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
            client.request("GET", "/v2/health/ready")
            if client.getresponse().status == 200:
                return
            if "failed to load" in log.read_text(errors="replace"):
                break
        time.sleep(0.1)
    pytest.fail(f"Triton is not ready: {log.read_text(errors='replace')[-5000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]
