"""A server under observation: what it holds, what it counts, what it logs; and the verdict on a list of claims."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.render import save_and_print
from benchmarks.rounds import ROOT, Report, Row

PATIENCE_S = 120
ACCESS_LOG = "access.jsonl"
_SAMPLE = re.compile(r"alexnet_deploy_(\w+)(?:\{(.*)\})? (\S+)")
_FAULTS = re.compile("Traceback|failed|broke off|Exception|Warning:|Error:")
_READY = "Ctrl-C ends it"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server's process holds, and when."""

    at_s: float
    rss_MiB: float
    files: int
    threads: int


@dataclass
class Watched:
    """A running ``serve`` on loopback; ``log`` is its standard error."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0
    grpc_port: int = 0

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one HTTP request."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as client:
            client.request(method, path, body)
            response = client.getresponse()
            return response.status, response.read()

    def metrics(self, name: str) -> dict[str, float]:
        """The values of one metric by its labels, as Prometheus's text has them."""
        found = map(_SAMPLE.fullmatch, self.ask("GET", "/metrics")[1].decode().splitlines())
        return {match[2] or "": float(match[3]) for match in found if match and match[1] == name}

    def is_ready(self) -> bool:
        """Whether it says so itself."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/v2/health/ready")[0] == 200
        return False

    def usage(self) -> Usage:
        """Its memory, open files and threads now."""
        folder = Path(f"/proc/{self.process.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        rss_MiB = pages * os.sysconf("SC_PAGESIZE") / 2**20
        files, threads = (len(os.listdir(folder / kind)) for kind in ("fd", "task"))
        return Usage(time.monotonic(), rss_MiB, files, threads)

    def faults(self) -> list[str]:
        """Lines of its log that no request may cause."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if _FAULTS.search(line)]

    def refusals_s(self) -> list[float]:
        """How long it took over each request for which it had no room, by its own access log."""
        with (self.log.parent / ACCESS_LOG).open(encoding="utf-8") as lines:
            rows = (json.loads(line) for line in lines if '"status":503' in line or "EXHAUSTED" in line)
            return [row["ms"] / 1000 for row in rows if row["status"] in (503, "RESOURCE_EXHAUSTED")]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal; it is killed if it stays for longer than ``PATIENCE_S``."""
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def watched(engine: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Iterator[Watched]:
    """``serve`` with ``engine``, ready; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "alexnet_deploy",
            "serve",
            engine.name,
            "--store",
            engine.parent,
        ]
        for flag in ("--port", "--grpc-port"):
            command += [] if flag in arguments else [flag, "0"]
        with log.open("wb") as stream, (Path(folder) / ACCESS_LOG).open("wb") as access:
            process = subprocess.Popen(
                [*map(str, command), *map(str, arguments)],
                cwd=ROOT,
                stdout=access,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        server = Watched(process, log)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while _READY not in (text := log.read_text(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{' '.join(map(str, command))}: not ready: {text[-3000:]}")
                time.sleep(0.02)
            server.port, server.grpc_port = map(int, re.findall(r"127\.0\.0\.1:(\d+)", text)[:2])
            yield server
        finally:
            if process.poll() is None:
                server.end()


@dataclass
class Sampler:
    """``usage`` of a server once per second, in a thread, for the length of a ``with`` block."""

    server: Watched
    samples: list[Usage] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            with contextlib.suppress(OSError):
                self.samples.append(self.server.usage())

    def rows(self, growth: str, spread: str, files: str) -> Iterator[Row]:
        """Memory and files of the last two thirds, after caches and arenas have filled; each with its goal."""
        late = self.samples[len(self.samples) // 3 :]
        rss = [usage.rss_MiB for usage in late]
        at = np.array([usage.at_s for usage in late])
        slope = float(np.polyfit(at - at[0], rss, 1)[0]) if len(late) > 2 else 0.0
        yield Row("memory, highest", "MiB", [max(rss)])
        yield Row(
            "memory, growth by the straight line through the last two thirds",
            "MiB",
            [slope * (at[-1] - at[0])],
            goal=growth,
        )
        yield Row("memory, highest - lowest of the last two thirds", "MiB", [max(rss) - min(rss)], goal=spread)
        counts = [usage.files for usage in late]
        yield Row(
            "open files, highest - lowest of the last two thirds", "", [float(max(counts) - min(counts))], goal=files
        )


def conclude(report: Report, output: Path, problems: Sequence[str]) -> None:
    """Write and print the report; the first problems and exit code 1 if a claim fails."""
    save_and_print(report, output)
    for problem in problems[:60]:
        print(problem, file=sys.stderr)
    missed = [row.case for row in report.rows if row.meets_goal() is False]
    if missed or problems:
        sys.exit(f"not met: {', '.join(missed) or 'no problem expected'}; {len(problems)} problems")
