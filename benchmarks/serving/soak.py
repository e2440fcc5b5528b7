"""Does ``serve`` stay right, quick to refuse, and of one size when for long more is asked than it can answer?

    python -m benchmarks.serving.soak PHOTOS [--store engines] [--minutes 30] [--load 1.5]

Measures the capacity with clients that wait for their answers, then sends requests at ``--load`` times that rate,
whether answers come or not, by ``/classify``, the Open Inference Protocol over REST, and gRPC in turn. Every answer is
compared with what the engine itself says about the photo.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks.rounds import CACHE, RESULTS, Report, Row
from benchmarks.serving.checked import WAYS, Client, Expected, Photos, fault_in, p50_and_p99, version_of
from benchmarks.serving.watched import Sampler, Watched, conclude, watched

QUESTION = "Serving: more requests than it can answer, for long"
CLIENTS = 64
"""Enough for full batches all the time; the queue has room for four times as many."""
WARM_UP_S, CAPACITY_S = 5.0, 15.0
"""Long enough for a steady rate, short beside the minutes that follow."""
PATIENCE_S = 60.0
"""A request without any answer after that is lost: twice the server's own limit per request."""


BY_GRPCIO = "Concurrent RPC limit exceeded!"
"""grpcio refuses calls beyond ``maximum_concurrent_rpcs`` itself: without a time to come again, and uncounted."""


@dataclass
class Seen:
    """What became of the requests."""

    sent: int = 0
    by_grpcio: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[bool, list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Requests with an answer."""
        return self.codes["http", "200"] + self.codes["grpc", "OK"]


async def ask_once(client: Client, number: int, photos: int, versions: dict[str, Expected], seen: Seen) -> None:
    """One request, its reply compared and counted."""
    way, photo, id = WAYS[number % len(WAYS)], number // len(WAYS) % photos, f"request {number}"
    seen.sent += 1
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            reply = await client.ask(way, photo, id)
    except (OSError, EOFError) as exc:
        seen.codes["http" if way != "grpc image" else "grpc", "no answer"] += 1
        seen.problems.append(f"{way}: no answer after {time.perf_counter() - started:.1f} s: {exc!r}")
        return
    if reply.text == BY_GRPCIO:
        seen.by_grpcio += 1
        return
    seen.codes["http" if way != "grpc image" else "grpc", reply.code] += 1
    seen.seconds[reply.is_good].append(time.perf_counter() - started)
    if reply.is_good:
        if fault := fault_in(reply, way, photo, id, versions):
            seen.problems.append(fault)
    elif not (reply.is_refusal and reply.retry_after):
        seen.problems.append(f"{way}: {reply.code} {reply.text}")


async def capacity(client: Client, photos: int, versions: dict[str, Expected], seen: Seen) -> float:
    """Requests per second of ``CLIENTS`` clients that wait for their answers, once it is warm."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + CAPACITY_S
    counted = 0

    async def one(number: int) -> None:
        nonlocal counted
        while time.perf_counter() < end:
            await ask_once(client, number, photos, versions, seen)
            counted += begin <= time.perf_counter() < end
            number += CLIENTS + 1  # another way and another photo

    await asyncio.gather(*map(one, range(CLIENTS)))
    return counted / CAPACITY_S


async def overload(
    client: Client, rate: float, seconds: float, photos: int, versions: dict[str, Expected], seen: Seen
) -> None:
    """Requests at random times, ``rate`` per second on average, whether answers come or not."""
    times, started, at, number = random.Random(1), time.perf_counter(), 0.0, 0
    tasks: set[asyncio.Task[None]] = set()
    while at < seconds:
        at += times.expovariate(rate)
        await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
        task = asyncio.create_task(ask_once(client, number, photos, versions, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)


def soak(server: Watched, engine: Path, photos: Photos, minutes: float, load: float) -> tuple[list[Row], list[str]]:
    """The rows of the report, and what went wrong."""
    expected = Expected.of(engine, photos)
    if expected.closest_pair() <= expected.tolerance:
        sys.exit(f"{engine}: two photos have the same answer within {expected.tolerance:.2g}; take other photos")
    versions = {version_of(engine): expected}
    alone, under_load = Seen(), Seen()
    sampler = Sampler(server)

    async def run() -> float:
        count, classes = len(photos.contents), expected.scores_PK.shape[1]
        client = Client(server.port, server.grpc_port, engine.name, photos, classes)
        try:
            rate = await capacity(client, count, versions, alone)
            with sampler:
                await overload(client, load * rate, 60 * minutes, count, versions, under_load)
        finally:
            await client.close()
        return rate

    before = _counted(server)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rate = runner.run(run())
    own = _counted(server) - before
    problems = alone.problems + under_load.problems
    problems += [
        f"its metrics count {own[key]} of {key}, the clients {count}" for key, count in _differ(own, alone, under_load)
    ]
    problems += [f"log: {line}" for line in server.faults()]
    problems += [] if server.process.poll() is None else ["the server has ended"]
    rows = list(_rows(rate, load, minutes, under_load, expected))
    for name, value in zip(("p50", "p99"), p50_and_p99(server.refusals_s()), strict=True):
        rows.append(Row(f"refused, by the server's own log, {name}", "ms", [value]))
    return [
        *rows,
        *sampler.rows("≤ 16", "≤ 96", "≤ 1100"),
        Row("wrong, lost or unexplained", "", [float(len(problems))], goal="≤ 0"),
    ], problems


def _counted(server: Watched) -> Counter[tuple[str, str]]:
    """The server's own count of inference requests by protocol and code."""
    counts: Counter[tuple[str, str]] = Counter()
    for labels, value in server.metrics("requests_total").items():
        fields = dict(part.split("=", 1) for part in labels.replace('"', "").split(","))
        if fields["operation"] in ("classify", "infer"):
            counts[fields["protocol"], fields["code"]] += int(value)
    return counts


def _differ(own: Counter[tuple[str, str]], *seen: Seen) -> Iterator[tuple[tuple[str, str], int]]:
    total = sum((one.codes for one in seen), Counter())
    for key in own.keys() | total.keys():
        if own[key] != total[key]:
            yield key, total[key]


def _rows(rate: float, load: float, minutes: float, seen: Seen, expected: Expected) -> Iterator[Row]:
    refused = seen.sent - seen.answered
    yield Row(f"capacity, {CLIENTS} clients that wait", "requests/s", [rate])
    yield Row(f"sent at {load:g} x capacity for {minutes:g} minutes", "requests/s", [seen.sent / 60 / minutes])
    yield Row("answered", "requests/s", [seen.answered / 60 / minutes], "capacity", [rate], "≥ 0.8")
    yield Row("refused", "requests/s", [refused / 60 / minutes])
    yield Row("of them by grpcio itself", "requests/s", [seen.by_grpcio / 60 / minutes])
    for case, is_good in (("answered", True), ("refused", False)):
        for name, value in zip(("p50", "p99"), p50_and_p99(seen.seconds[is_good]), strict=True):
            yield Row(f"{case}, {name}", "ms", [value])
    if refused:
        quick, slow = p50_and_p99(seen.seconds[False])[0], p50_and_p99(seen.seconds[True])[0]
        yield Row("p50 of refusals", "ms", [quick], "p50 of answers", [slow], "≤ 0.5")
    yield Row("tolerance of a probability", "points", [100 * expected.tolerance])


def main() -> None:
    """Parse the flags, run, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--store", type=Path, default=CACHE / "engines", help="with the engine")
    parser.add_argument("--engine", default="alexnet-int8")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=1.5, help="multiple of the capacity")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving_soak.json")
    args = parser.parse_args()
    engine = args.store.resolve() / args.engine
    photos = Photos.load(args.photos, engine)
    with watched(engine) as server:
        rows, problems = soak(server, engine, photos, args.minutes, args.load)
    conclude(Report(QUESTION, rows), args.output, problems)


if __name__ == "__main__":
    main()
