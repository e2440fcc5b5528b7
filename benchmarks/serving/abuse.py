"""Does ``serve`` answer or refuse whatever it is sent, without a 500, a hang, a stall for others, or a traceback?

    python -m benchmarks.serving.abuse PHOTO [--store engines] [--schemathesis st] [--examples 10000]

Hostile requests one by one, clients that stop or trickle, a thousand idle connections; then schemathesis against the
OpenAPI document, from an environment of its own (``pip install schemathesis``), and the mutated requests of
``tests/serving/test_fuzz.py``. While each is on its way, another client asks whether the server lives.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rounds import CACHE, RESULTS, ROOT, Report, Row
from benchmarks.serving.hostile import Hostile, HostileCall, grpc_cases, http_cases, json_cases, slow_cases
from benchmarks.serving.watched import Watched, conclude, watched

QUESTION = "Serving: hostile requests"
IDLE_S = 2
PATIENCE_S = 30.0
STALL_S = 1.0
"""Longer than this nobody may wait because of another's request: probes commonly give up after a second."""
GROWTH_MiB = 256
"""Above the body itself, per request: what ``--max-memory`` does not count."""
CONNECTIONS = 1000
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
"""Of schemathesis. Not that every body of the right schema is accepted: no schema says what a decodable image is."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Outcome:
    """What happened."""

    requests: int = 0
    longest_stall_s: float = 0.0
    highest_growth_MiB: float = 0.0
    problems: list[str] = field(default_factory=list)


class Neighbour:
    """Another client, which asks for health all the time; the longest it waited."""

    def __init__(self, server: Watched) -> None:
        self._server, self._over = server, threading.Event()
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            started = time.monotonic()
            with contextlib.suppress(OSError):
                self._server.ask("GET", "/v2/health/live")
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@contextlib.contextmanager
def measured(server: Watched, name: str, sent: int, outcome: Outcome) -> Iterator[None]:
    """Stall of others and growth of memory while one request of ``sent`` bytes is on its way."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    before, neighbour = server.usage().rss_MiB, Neighbour(server)
    try:
        yield
    finally:
        neighbour.stop()
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    growth = peak - before - 3 * sent / 2**20  # read in pieces, joined, and a copy that a parser makes
    outcome.requests += 1
    outcome.longest_stall_s = max(outcome.longest_stall_s, neighbour.longest_s)
    outcome.highest_growth_MiB = max(outcome.highest_growth_MiB, growth)
    if neighbour.longest_s > STALL_S:
        outcome.problems.append(f"{name}: another client waited {neighbour.longest_s:.1f} s for its health check")
    if growth > GROWTH_MiB:
        outcome.problems.append(f"{name}: {growth:.0f} MiB of memory beyond the request")


def send(server: Watched, case: Hostile, until_closed: bool) -> str | None:
    """What is wrong with the answers to ``case``, or None. ``until_closed``: the server must end the connection."""
    got, closed, begun = b"", False, time.monotonic()
    limit_s = 5 * IDLE_S + 5 if until_closed else PATIENCE_S
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        with contextlib.suppress(OSError):  # it may refuse before it has read everything
            client.sendall(case.content)
            if case.half:
                client.shutdown(socket.SHUT_WR)
        client.settimeout(1.0)
        while not closed and time.monotonic() - begun < limit_s:
            if not until_closed and case.answers and len(_STATUS.findall(got)) >= case.count:
                break
            try:
                piece = client.recv(1 << 16)
                got, closed = got + piece, not piece
            except TimeoutError:
                with contextlib.suppress(OSError):
                    client.sendall(case.trickle)
            except OSError:
                closed = True
    statuses = [status.decode() for status in _STATUS.findall(got)]
    if until_closed and not closed:
        return f"{case.name}: the connection is open after {limit_s} s; answers: {statuses}"
    if case.answers and not statuses and not closed:
        return f"{case.name}: no answer after {limit_s:.0f} s"
    if case.answers and len(statuses) < case.count:
        return f"{case.name}: {len(statuses)} answers for {case.count} requests"
    if statuses and statuses[0] not in case.answers:
        return f"{case.name}: status {statuses[0]}, expected {'/'.join(sorted(case.answers)) or 'none'}: {got[-200:]!r}"
    return None


def call(stub: Any, content: bytes, case: HostileCall) -> str | None:
    """What is wrong with the answer to ``content``, the gRPC message of ``case``, or None."""
    import grpc

    try:
        stub(content, timeout=PATIENCE_S)
        code = "OK"
    except grpc.RpcError as exc:
        code = exc.code().name
    return None if code in case.codes else f"gRPC, {case.name}: {code}, expected {'/'.join(case.codes)}"


def one_by_one(server: Watched, model: str, photo: bytes, outcome: Outcome) -> None:
    """All hostile requests."""
    import grpc

    from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE

    def note(problem: str | None) -> None:
        outcome.problems += [problem] if problem else []

    for case in (*http_cases(photo), *json_cases(model, photo)):
        with measured(server, case.name, len(case.content), outcome):
            note(send(server, case, until_closed=False))
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        stub, request = channel.unary_unary(f"/inference.{SERVICE}/ModelInfer"), METHODS["ModelInfer"][0]
        for one in grpc_cases(model, photo):
            content = one.message if isinstance(one.message, bytes) else request(**one.message).SerializeToString()
            with measured(server, f"gRPC, {one.name}", len(content), outcome):
                note(call(stub, content, one))
    slow = list(slow_cases(photo))
    with ThreadPoolExecutor(len(slow)) as pool:
        for problem in pool.map(lambda case: send(server, case, until_closed=True), slow):
            note(problem)
    outcome.requests += len(slow)


def idle_connections(server: Watched, outcome: Outcome) -> None:
    """``CONNECTIONS`` that send nothing: the server is there again once ``--idle`` is over."""
    with contextlib.ExitStack() as stack:
        for port in (server.port, server.grpc_port):
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(2 * IDLE_S)
        if not server.is_ready():
            outcome.problems.append(f"{CONNECTIONS} idle connections: not ready after twice the idle time")


def tool(name: str, command: list[str], environment: dict[str, str], outcome: Outcome) -> None:
    """Run another tester, whose exit code is its verdict."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    print(done.stdout[-4000:], file=sys.stderr)
    if done.returncode:
        outcome.problems.append(f"{name}: exit code {done.returncode}")


def main() -> None:
    """Parse the flags, run, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photo", type=Path, help="a JPEG of usual size")
    parser.add_argument("--store", type=Path, default=CACHE / "engines", help="with the engine")
    parser.add_argument("--engine", default="alexnet-int8")
    parser.add_argument("--schemathesis", help="its program st; without it, this part is left out")
    parser.add_argument("--examples", type=int, default=10_000, help="per protocol and operation; 0: none")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving_abuse.json")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard) if hard > 0 else 8192, hard))
    outcome, photo = Outcome(), args.photo.read_bytes()
    with watched(args.store.resolve() / args.engine, "--idle", f"{IDLE_S}s") as server:
        one_by_one(server, args.engine, photo, outcome)
        idle_connections(server, outcome)
        if args.schemathesis and args.examples:
            command = [args.schemathesis, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", CHECKS]
            command += ["--phases", "coverage,fuzzing", "--max-examples", str(args.examples), "--request-timeout", "30"]
            tool("schemathesis", [*command, "--seed", "1", "--no-color", "--continue-on-failure"], {}, outcome)
        for name in ("queue_images", "body_bytes"):
            if left := sum(server.metrics(name).values()):
                outcome.problems.append(f"{name} is {left:g} when nobody asks")
        for labels, count in server.metrics("requests_total").items():
            if re.search('code="(5..|INTERNAL|UNKNOWN)"', labels) and 'code="503"' not in labels:
                outcome.problems.append(f"{count:g} requests ended with {labels}")
        outcome.problems += [f"log: {line}" for line in server.faults()]
    if args.examples:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/serving/test_fuzz.py"]
        tool("mutated requests", command, {"ALEXNET_DEPLOY_FUZZ_EXAMPLES": str(args.examples)}, outcome)
    rows = [
        Row("hostile requests", "", [float(outcome.requests)]),
        Row("longest wait of another client", "s", [outcome.longest_stall_s], goal=f"≤ {STALL_S:g}"),
        Row("most memory beyond the request", "MiB", [outcome.highest_growth_MiB], goal=f"≤ {GROWTH_MiB}"),
        Row("wrong, unanswered or unexplained", "", [float(len(outcome.problems))], goal="≤ 0"),
    ]
    conclude(Report(QUESTION, rows), args.output, outcome.problems)


if __name__ == "__main__":
    main()
