"""How many requests does ``serve`` answer, compared with other servers of the same engine, and with no server at all?

    python -m benchmarks.serving.measure PHOTOS --store engines [--rounds 3] [--seconds 4]
        [--sides rest,grpc,litserve,bentoml,triton] [--concurrency 1,4,16,64] [--kinds photo,pixels]

Requests of one encoded photo or of its raw pixels, to the INT8 engine; each client waits for its answer before it asks
again. The load comes from a process of its own on the same machine, which takes its share of the cores from all servers
alike. Before anything is timed, one answer of each side is compared with the engine's own.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.render import save_and_print
from benchmarks.rounds import CACHE, Report, Row, argument_parser, in_process, in_turn
from benchmarks.serving import servers
from benchmarks.serving.servers import Server

QUESTION = "Serving: requests of one image, answered over loopback"
ENGINE = "alexnet-int8"
OURS = {"rest": "REST", "grpc": "gRPC"}
PEERS = {"litserve": "LitServe", "bentoml": "BentoML", "triton": "Triton"}
SIDES = OURS | PEERS
KINDS = ("photo", "pixels")
GOALS = {"litserve": "≥ 1.5"}
"""At concurrency 4 and more."""
LIMIT_NOTE = (
    "The limit is 1 / (1/decode + 1/engine at its best batch), each alone on all cores: it leaves nothing for HTTP or "
    "for the client, which runs on the same cores."
)
Reading = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    sides: list[str]
    kinds: list[str]
    concurrency: list[int]

    def ours(self) -> list[str]:
        return [side for side in self.sides if side in OURS]

    def peers(self) -> list[str]:
        return [side for side in self.sides if side in PEERS]


def main() -> None:
    """Start the servers, check their answers, and load them in rounds."""
    parser = argument_parser(__doc__, "serving")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load")
    parser.add_argument("--sides", type=_one_of(tuple(SIDES)), default=list(SIDES))
    parser.add_argument("--kinds", type=_one_of(KINDS), default=list(KINDS))
    parser.add_argument("--concurrency", type=lambda text: list(map(int, text.split(","))), default=[1, 4, 16, 64])
    parser.add_argument("--peer", type=Path, default=CACHE / "serving/bin/python", help="Python with requirements.txt")
    parser.add_argument("--triton", type=Path, default=CACHE / "triton/bin/python", help="with requirements-triton.txt")
    parser.add_argument("--litserve-workers", type=int, default=1, help="processes, which share the cores")
    parser.add_argument("--bentoml-workers", type=int, default=1, help="processes, which share the cores")
    args = parser.parse_args()
    plan = Plan(args.sides, args.kinds, args.concurrency)
    engine = (args.store / ENGINE).resolve()
    with contextlib.ExitStack() as running:
        started: dict[str, Server] = {}
        if plan.ours():
            started |= running.enter_context(servers.ours(engine))
        if "litserve" in plan.sides:
            started["litserve"] = running.enter_context(servers.litserve(args.peer, engine, args.litserve_workers))
        if "triton" in plan.sides:
            from benchmarks.serving.peers import triton_peer

            started["triton"] = running.enter_context(triton_peer.triton(args.triton, engine))
        readings = in_turn(_ways(plan, started, args, engine), args.rounds)
    save_and_print(Report(QUESTION, list(_rows(plan, readings)), [LIMIT_NOTE]), args.output)
    print("\n".join(["", *_overview(plan, readings)]))


def _one_of(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(choices):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {','.join(choices)}")
        return [choice for choice in choices if choice in text.split(",")]

    return parse


def _ways(
    plan: Plan, started: dict[str, Server], args: argparse.Namespace, engine: Path
) -> dict[str, Callable[[], Reading]]:
    def run(side: str, kind: str, *more: object) -> Reading:
        command = [sys.executable, "-m", "benchmarks.serving.load", side, kind, args.photos.resolve(), engine]
        command += ["--seconds", args.seconds, *more]
        with contextlib.ExitStack() as running:
            if side == "bentoml":  # its dispatcher learns how long to wait, and after a load of 16 lets a single client
                # wait for minutes as if there were 16: a new server for each load
                server = running.enter_context(servers.bentoml(args.peer, engine, args.bentoml_workers))
                command += ["--port", server.port]
            elif side in started:
                running.enter_context(started[side].awake())
                command += ["--port", started[side].port]
            found: dict[str, Any] = in_process(list(map(str, command)))
        return found

    for server in started.values():
        server.pause()
    ways: dict[str, Callable[[], Reading]] = {}
    for kind in plan.kinds:
        if kind == "photo":
            ways["photo decode"] = partial(run, "decode", kind)
        ways[f"{kind} engine"] = partial(run, "engine", kind)
        for side in plan.sides:
            checked = run(side, kind, "--check")
            print(f"{kind} {side}: answers as the engine does: {checked}", file=sys.stderr, flush=True)
        for count in plan.concurrency:
            for side in plan.sides:
                more = ["--metrics", started["rest"].port] if side in OURS else []
                ways[f"{kind} {side} {count}"] = partial(run, side, kind, "--concurrency", count, *more)
    return ways


def _rows(plan: Plan, readings: dict[str, list[Reading]]) -> Iterator[Row]:
    def of(way: str, field: str) -> list[float]:
        return [reading[field] for reading in readings[way]]

    for kind in plan.kinds:
        for side in plan.ours():
            for count in plan.concurrency:
                case, way = f"{kind}, {OURS[side]}, concurrency {count}", f"{kind} {side} {count}"
                for peer in plan.peers():
                    goal = GOALS.get(peer, "") if count >= 4 else ""
                    theirs = of(f"{kind} {peer} {count}", "per_s")
                    yield Row(case, "requests/s", of(way, "per_s"), PEERS[peer], theirs, goal)
                if count == 64 or not plan.peers():
                    goal = "≥ 0.85" if count == 64 else ""
                    limit = _limit(kind, readings)
                    yield Row(case, "requests/s", of(way, "per_s"), "limit of decoder and engine", limit, goal)
                for quantile in ("p50_ms", "p99_ms"):
                    for peer in plan.peers():
                        theirs = of(f"{kind} {peer} {count}", quantile)
                        yield Row(f"{case}, {quantile[:3]}", "ms", of(way, quantile), PEERS[peer], theirs)
                    if not plan.peers():
                        yield Row(f"{case}, {quantile[:3]}", "ms", of(way, quantile))
                yield Row(f"{case}, images per call of the engine", "", of(way, "batch_images"))
            if 1 in plan.concurrency:
                alone = of(f"{kind} engine", "p99_ms")
                if kind == "photo":
                    alone = [e + d for e, d in zip(alone, of("photo decode", "p99_ms"), strict=True)]
                one = of(f"{kind} {side} 1", "p99_ms")
                yield Row(f"{kind}, {OURS[side]}, p99 at 1", "ms", one, "p99 of engine + of decoder", alone, "≤ 1.3")
        for peer in () if plan.ours() else plan.peers():
            for count in plan.concurrency:
                for field, unit in (("per_s", "requests/s"), ("p50_ms", "ms p50"), ("p99_ms", "ms p99")):
                    yield Row(f"{kind}, {PEERS[peer]}, concurrency {count}", unit, of(f"{kind} {peer} {count}", field))


def _overview(plan: Plan, readings: dict[str, list[Reading]]) -> Iterator[str]:
    """A Markdown table of medians: requests/s, p50 and p99 in ms, for ours also images per call of the engine."""
    yield f"| requests/s, p50 / p99 ms | {' | '.join(SIDES[side] for side in plan.sides)} |"
    yield f"|---|{'---:|' * len(plan.sides)}"
    for kind in plan.kinds:
        for count in plan.concurrency:
            cells = []
            for side in plan.sides:
                found = readings[f"{kind} {side} {count}"]
                middle = {field: statistics.median(one[field] for one in found) for field in found[0]}
                batch = f", {middle['batch_images']:.1f} images" if side in OURS else ""
                cells.append(f"{middle['per_s']:,.0f}, {middle['p50_ms']:.1f} / {middle['p99_ms']:.1f}{batch}")
            yield f"| {kind}, {count} | {' | '.join(cells)} |"


def _limit(kind: str, readings: dict[str, list[Reading]]) -> list[float]:
    engine = [reading["per_s"] for reading in readings[f"{kind} engine"]]
    if kind == "pixels":
        return engine
    decode = [reading["per_s"] for reading in readings["photo decode"]]
    return [1 / (1 / e + 1 / d) for e, d in zip(engine, decode, strict=True)]


if __name__ == "__main__":
    main()
