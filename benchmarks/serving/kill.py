"""Does ``serve`` come back after kill -9 under load, on the same ports, and does it leave nothing behind?

    python -m benchmarks.serving.kill PHOTOS [--store engines] [--kills 10]

The server gets its own folders for temporary files and for its cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks.rounds import CACHE, RESULTS, Report, Row
from benchmarks.serving.checked import WAYS, Client, Expected, Photos, fault_in, version_of
from benchmarks.serving.servers import free_ports
from benchmarks.serving.watched import Watched, conclude, watched

QUESTION = "Serving: kill -9 under load, and restart"
CLIENTS = 4
LOAD_S = 2.0


@dataclass
class Outcome:
    """What the kills did."""

    restart_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    answers: int = 0
    problems: list[str] = field(default_factory=list)


async def one_kill(
    start: contextlib.AbstractContextManager[Watched], client: Client, check: _Check, outcome: Outcome
) -> None:
    """Start, ask for ``LOAD_S``, kill; clients go on meanwhile, and see errors only while there is no server."""
    begun = time.monotonic()
    server = await asyncio.to_thread(start.__enter__)
    outcome.restart_s.append(time.monotonic() - begun)
    killed = asyncio.Event()

    async def ask(number: int) -> None:
        first = True
        while not killed.is_set():
            way, photo, id = WAYS[number % len(WAYS)], number % check.photos, f"request {number}"
            try:
                reply = await client.ask(way, photo, id)
            except (OSError, EOFError) as exc:
                if not killed.is_set() and way != "grpc image":  # gRPC itself waits before it connects again
                    outcome.problems.append(f"{way}: no answer of a server that is ready: {exc!r}")
                await asyncio.sleep(0.01)
                continue
            if reply.is_good:
                if first:
                    outcome.back_s.append(time.monotonic() - begun)
                first = False
                outcome.answers += 1
                if fault := fault_in(reply, way, photo, id, check.versions):
                    outcome.problems.append(fault)
            elif not killed.is_set() and reply.code != "UNAVAILABLE":
                outcome.problems.append(f"{way}: {reply.code} {reply.text}")
            number += CLIENTS + 1

    asking = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]
    await asyncio.sleep(LOAD_S)
    children = _children(server.process.pid)
    killed.set()
    os.kill(server.process.pid, signal.SIGKILL)
    await asyncio.gather(*asking)
    await asyncio.to_thread(start.__exit__, None, None, None)
    left = [child for child in children if Path(f"/proc/{child}").exists()]
    outcome.problems += [f"process {child} outlives its server" for child in left]


@dataclass(frozen=True)
class _Check:
    photos: int
    versions: dict[str, Expected]


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _files(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


def run(engine: Path, photos: Photos, kills: int) -> tuple[list[Row], list[str]]:
    """The rows of the report, and what went wrong."""
    check = _Check(len(photos.contents), {version_of(engine): Expected.of(engine, photos)})
    classes = next(iter(check.versions.values())).scores_PK.shape[1]
    outcome = Outcome()
    port, grpc_port = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("tmp", "cache", "store"):
            (folder / each).mkdir()
        shutil.copytree(engine, folder / "store" / engine.name)
        environment = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
        arguments = ("--port", port, "--grpc-port", grpc_port)

        def start() -> contextlib.AbstractContextManager[Watched]:
            return watched(folder / "store" / engine.name, *arguments, environment=environment)

        with start():  # fills the cache
            pass
        before = _files(folder)

        async def all_kills() -> None:
            for _ in range(kills):
                client = Client(port, grpc_port, engine.name, photos, classes)
                await one_kill(start(), client, check, outcome)
                await client.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(all_kills())
        outcome.problems += [f"left behind: {path}" for path in sorted(_files(folder) - before)]
    return list(_rows(outcome)), outcome.problems


def _rows(outcome: Outcome) -> Iterator[Row]:
    yield Row("from the start to ready, cache filled", "s", outcome.restart_s)
    yield Row("from the start to a client's first answer", "s", outcome.back_s)
    yield Row("answers meanwhile", "", [float(outcome.answers)])
    yield Row("failed, wrong or left behind", "", [float(len(outcome.problems))], goal="≤ 0")


def main() -> None:
    """Parse the flags, run, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--store", type=Path, default=CACHE / "engines", help="with the engine")
    parser.add_argument("--engine", default="alexnet-int8")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "serving_kill.json")
    args = parser.parse_args()
    engine = args.store.resolve() / args.engine
    rows, problems = run(engine, Photos.load(args.photos, engine), args.kills)
    conclude(Report(QUESTION, rows), args.output, problems)


if __name__ == "__main__":
    main()
