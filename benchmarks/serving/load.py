"""One load, in a process of its own, for ``measure``; prints JSON.

    python -m benchmarks.serving.load SIDE KIND PHOTOS ENGINE --port PORT --concurrency 4 --seconds 4

SIDE is a server, ``decode`` or ``engine``; KIND is ``photo`` or ``pixels``. With ``--check`` one image is asked for,
and the program fails if the answer is not that of the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from benchmarks.serving.alone import decode_alone, engine_alone, summary
from benchmarks.serving.clients import CLIENTS, Ask, Target, probabilities_in

MAX_BYTES = 1 << 20
"""Larger files of a form go through the disk, and LitServe cannot hand such a file to its worker (status 500)."""
CLOSE = 1e-4
"""Of a probability: the same runtime on the same pixels; answers are float32, or text with six digits."""


def main() -> None:
    """Run one load."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("side", choices=["decode", "engine", *CLIENTS])
    parser.add_argument("kind", choices=["photo", "pixels"])
    parser.add_argument("photos", type=Path)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--metrics", type=int, help="port of our own /metrics")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--check", action="store_true")
    print(json.dumps(_load(parser.parse_args())))


def _load(args: argparse.Namespace) -> dict[str, Any]:
    engine = open_bundle(args.engine)
    pre = engine.contract.preprocessing
    files = [file for file in find_images([args.photos]) if file.stat().st_size <= MAX_BYTES][:64]
    if args.side == "decode":
        return decode_alone([file.read_bytes() for file in files], pre, args.seconds)
    pixels = [load_pixels(file, pre) for file in files]
    if args.side == "engine":
        return engine_alone(engine, np.stack(pixels), args.seconds)
    photos = args.kind == "photo"
    contents = [file.read_bytes() for file in files] if photos else [image.tobytes() for image in pixels]
    target = Target(args.port, engine.name, photos, pixels[0].shape)

    async def connect() -> Ask:
        return await CLIENTS[args.side](target, contents)

    if args.check:
        return _check(args.side, target, _run(lambda: _first(connect)), engine, pixels[0])
    before = _batches(args.metrics)
    found: dict[str, Any] = _run(lambda: _clients(connect, len(contents), args.concurrency, args.seconds))
    if args.metrics:
        calls, images = (after - earlier for earlier, after in zip(before, _batches(args.metrics), strict=True))
        found["batch_images"] = images / calls
    return found


def _run(work: Callable[[], Any]) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


async def _first(connect: Callable[[], Awaitable[Ask]]) -> Any:
    ask = await connect()
    return await ask(0)


async def _clients(
    connect: Callable[[], Awaitable[Ask]], requests: int, concurrency: int, seconds: float
) -> dict[str, float]:
    """Each client waits for its answer before it asks again.

    The rate counts all answers within ``seconds``, also those to requests that were on their way when they began. The
    latencies are those of the requests that began within them, however late they end: slow ones are not left out.
    """
    took: list[float] = []
    answered = 0
    asks = [await connect() for _ in range(concurrency)]
    begin = time.perf_counter() + min(1.0, seconds / 4)  # the first requests warm all sides up
    end = begin + seconds

    async def client(number: int, ask: Ask) -> None:
        nonlocal answered
        while (started := time.perf_counter()) < end:
            number = (number + 1) % requests
            await ask(number)
            ended = time.perf_counter()
            answered += begin <= ended <= end
            if begin <= started:
                took.append(ended - started)

    await asyncio.gather(*(client(number, ask) for number, ask in enumerate(asks)))
    if not answered or not took:
        sys.exit(f"no answer within {seconds:g} s; give more `--seconds`")
    return summary(took, answered / seconds)


def _check(side: str, target: Target, answer: Any, engine: Engine, pixels_HWC: Any) -> dict[str, Any]:
    from alexnet_deploy.probabilities import probabilities
    from alexnet_deploy.runtime.select import open_runner

    contract = engine.contract
    logits_NK = open_runner(engine).runner(pixels_HWC[np.newaxis])
    right = probabilities(logits_NK, contract)[0]
    found = probabilities_in(side, target, answer, contract)
    best = max(found, key=lambda index: found[index])
    apart = max(abs(right[index] - value) for index, value in found.items())
    if best != int(right.argmax()) or not apart <= CLOSE:
        sys.exit(f"{side}: answers {found}, the engine {right.tolist()}; they are not comparable")
    return {"class": best, "probability": found[best], "largest difference": float(apart)}


def _batches(port: int | None) -> tuple[float, float]:
    """Calls of the engine and images in them, since the server started."""
    if port is None:
        return 0.0, 0.0
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        client.request("GET", "/metrics")
        lines = client.getresponse().read().decode().splitlines()

    def value(name: str) -> float:
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith(f"alexnet_deploy_batch_images_{name}{{")
        )

    return value("count"), value("sum")


if __name__ == "__main__":
    main()
