"""How many requests does ``serve`` answer, compared with LitServe on the same runner and with decoder and engine alone?

    python -m benchmarks.serving.measure PHOTOS [--store engines] [--rounds 3] [--seconds 4] [--peer PYTHON]

Encoded photos and raw pixels of the INT8 engine, at concurrency 1, 4, 16 and 64, each client waiting for its answer.
The load comes from a process of its own on the same machine, which takes its share of the cores from both servers
alike. ``--peer`` is the Python of an environment with ``benchmarks/serving/requirements.txt``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.render import save_and_print
from benchmarks.rounds import CACHE, ROOT, Report, Row, argument_parser, in_process, in_turn

QUESTION = "Serving: requests of one image, answered over loopback"
CONCURRENCY = (1, 4, 16, 64)
ENGINE = "alexnet-int8"
SIDES = {"rest": "REST", "grpc": "gRPC", "litserve": "LitServe"}
MAX_BYTES = 1 << 20
"""Larger files of a form go through the disk, and LitServe cannot hand such a file to its worker (status 500)."""
PATIENCE_S = 120
Ask = Callable[[int], Awaitable[None]]


def main() -> None:
    """Run one load (``--way``), or start servers and loads in rounds."""
    parser = argument_parser(__doc__, "serving")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load")
    parser.add_argument("--peer", type=Path, default=CACHE / "serving" / "bin" / "python", help="Python with LitServe")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--concurrency", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(_load(args)))
        return
    _compare(args)


def _compare(args: argparse.Namespace) -> None:
    sides = [side for side in SIDES if side != "litserve" or args.peer.exists()]
    with contextlib.ExitStack() as servers:
        ports = servers.enter_context(_ours(args.store))
        if "litserve" in sides:
            ports["litserve"] = servers.enter_context(_litserve(args.peer, args.store))
        command = [
            sys.executable,
            "-m",
            "benchmarks.serving.measure",
            args.photos.resolve(),
            "--store",
            args.store.resolve(),
        ]
        command += ["--seconds", str(args.seconds)]
        ways: dict[str, Callable[[], dict[str, float]]] = {}
        for kind in ("photo", "pixels"):
            ways[f"{kind} decode"] = lambda kind=kind: in_process([*command, "--way", f"decode {kind}"])
            ways[f"{kind} engine"] = lambda kind=kind: in_process([*command, "--way", f"engine {kind}"])
            for count in CONCURRENCY:
                for side in sides:
                    load = [*command, "--way", f"{side} {kind}", "--concurrency", count, "--port", ports[side]]
                    ways[f"{kind} {side} {count}"] = lambda load=load: in_process(load)
        readings = in_turn(ways, args.rounds)
    save_and_print(Report(QUESTION, list(_rows(readings, sides)), [_NOTE]), args.output)


_NOTE = (
    "The limit is 1 / (1/decode + 1/engine at its best batch), each alone on all cores: it leaves nothing for HTTP or "
    "for the client, which runs on the same cores."
)


def _rows(readings: dict[str, list[dict[str, float]]], sides: list[str]) -> Iterator[Row]:
    def of(way: str, field: str) -> list[float]:
        return [reading[field] for reading in readings[way]]

    for kind in ("photo", "pixels"):
        engine, decode = of(f"{kind} engine", "per_s"), of(f"{kind} decode", "per_s")
        limit = [1 / (1 / e + 1 / d) for e, d in zip(engine, decode, strict=True)]
        for side in sides[:2]:
            for count in CONCURRENCY:
                case = f"{kind}, {SIDES[side]}, concurrency {count}"
                ours = of(f"{kind} {side} {count}", "per_s")
                if "litserve" in sides:
                    theirs = of(f"{kind} litserve {count}", "per_s")
                    yield Row(case, "requests/s", ours, "LitServe", theirs, "≥ 1.5" if count >= 4 else "")
                if count == 64:
                    yield Row(case, "requests/s", ours, "limit of decoder and engine", limit, "≥ 0.85")
                for quantile in ("p50_ms", "p99_ms"):
                    latency = of(f"{kind} {side} {count}", quantile)
                    peer = of(f"{kind} litserve {count}", quantile) if "litserve" in sides else []
                    yield Row(f"{case}, {quantile[:3]}", "ms", latency, "LitServe" if peer else "", peer)
            alone = [e + d for e, d in zip(of(f"{kind} engine", "p99_ms"), of(f"{kind} decode", "p99_ms"), strict=True)]
            one = of(f"{kind} {side} 1", "p99_ms")
            yield Row(f"{kind}, {SIDES[side]}, p99 at 1", "ms", one, "p99 of engine + of decoder", alone, "≤ 1.3")


@contextlib.contextmanager
def _ours(store: Path) -> Iterator[dict[str, int]]:
    command = [sys.executable, "-m", "alexnet_deploy", "serve", ENGINE, "--store", store, "--no-access-log"]
    with _process([*command, "--port", "0", "--grpc-port", "0"], "Ctrl-C ends it") as line:
        http, grpc = (int(part.split()[0].rstrip(";,")) for part in line.split("127.0.0.1:")[1:3])
        yield {"rest": http, "grpc": grpc}


@contextlib.contextmanager
def _litserve(python: Path, store: Path) -> Iterator[int]:
    with _process([python, "-m", "benchmarks.serving.litserve_peer", store / ENGINE, "8765"], "ready on") as line:
        yield int(line.split()[-1])


@contextlib.contextmanager
def _process(command: list[object], ready: str) -> Iterator[str]:
    """A server until the end of the block; the line that says that it is ready."""
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stderr is not None
    log, deadline = "", time.monotonic() + PATIENCE_S
    try:
        while ready not in log or not log.endswith("\n"):
            if not select.select([process.stderr], [], [], max(0, deadline - time.monotonic()))[0]:
                sys.exit(f"{command[0]}: not ready after {PATIENCE_S} s: {log}")
            piece = os.read(process.stderr.fileno(), 1 << 16).decode()
            if not piece:
                sys.exit(f"{command[0]}: ended: {log}")
            log += piece
        yield next(line for line in log.splitlines() if ready in line)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _load(args: argparse.Namespace) -> dict[str, float]:
    from alexnet_deploy.bundle.manifest import open_bundle
    from alexnet_deploy.images.decode import load_pixels
    from alexnet_deploy.images.find import find_images

    side, kind = args.way.split()
    engine = open_bundle(args.store / ENGINE)
    files = [file for file in find_images([args.photos]) if file.stat().st_size <= MAX_BYTES][:64]
    pre = engine.contract.preprocessing
    if side == "decode":
        return _decode_alone(files, pre, args.seconds) if kind == "photo" else {"per_s": float("inf"), "p99_ms": 0.0}
    pixels = [load_pixels(file, pre) for file in files]
    if side == "engine":
        return _engine_alone(engine, np.stack(pixels), args.seconds)
    contents = [file.read_bytes() for file in files] if kind == "photo" else [image.tobytes() for image in pixels]
    make = {"rest": _rest, "grpc": _grpc, "litserve": _form}[side]
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_clients(make, kind, contents, pixels[0].shape, args))


async def _clients(
    make: Any, kind: str, contents: list[bytes], shape: tuple[int, ...], args: argparse.Namespace
) -> dict[str, float]:
    took: list[float] = []
    asks = [await make(args.port, kind, contents, shape) for _ in range(args.concurrency)]
    begin = time.perf_counter() + min(1.0, args.seconds / 4)  # the first requests warm both sides up
    end = begin + args.seconds

    async def client(number: int, ask: Ask) -> None:
        while (started := time.perf_counter()) < end:
            number = (number + 1) % len(contents)
            await ask(number)
            ended = time.perf_counter()
            if begin <= started and ended <= end:
                took.append(ended - started)

    await asyncio.gather(*(client(number, ask) for number, ask in enumerate(asks)))
    return _summary(took, len(took) / args.seconds)


def _summary(took: list[float], per_s: float) -> dict[str, float]:
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return {"per_s": per_s, "p50_ms": float(p50), "p99_ms": float(p99)}


async def _http(port: int, requests: list[bytes]) -> Ask:
    """A client with one connection; it reads the answer only as far as it must, so it takes little of the cores."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(number: int) -> None:
        writer.write(requests[number])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]))

    return ask


async def _rest(port: int, kind: str, contents: list[bytes], shape: tuple[int, ...]) -> Ask:
    def request(content: bytes) -> bytes:
        if kind == "photo":
            return f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        parameters = {"binary_data_size": len(content)}
        given = {"name": "pixels", "datatype": "UINT8", "shape": [1, *shape], "parameters": parameters}
        head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        sizes = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(content)}\r\n"
        return f"POST /v2/models/{ENGINE}/infer HTTP/1.1\r\nHost: x\r\n{sizes}\r\n".encode() + head + content

    return await _http(port, list(map(request, contents)))


async def _form(port: int, kind: str, contents: list[bytes], shape: tuple[int, ...]) -> Ask:
    """LitServe takes files as a form."""

    def request(content: bytes) -> bytes:
        part = f'--b\r\nContent-Disposition: form-data; name="{kind}"; filename="x"\r\n\r\n'.encode()
        body = part + content + b"\r\n--b--\r\n"
        head = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n"
        return f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body

    return await _http(port, list(map(request, contents)))


async def _grpc(port: int, kind: str, contents: list[bytes], shape: tuple[int, ...]) -> Ask:
    import grpc.aio

    from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE

    request, response = METHODS["ModelInfer"]
    if kind == "photo":
        given = {"name": "image", "datatype": "BYTES", "shape": [1]}
        requests = [
            request(model_name=ENGINE, inputs=[given | {"contents": {"bytes_contents": [content]}}])
            for content in contents
        ]
    else:
        given = {"name": "pixels", "datatype": "UINT8", "shape": [1, *shape]}
        requests = [request(model_name=ENGINE, inputs=[given], raw_input_contents=[content]) for content in contents]
    serialised = [one.SerializeToString() for one in requests]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary(f"/inference.{SERVICE}/ModelInfer", response_deserializer=response.FromString)

    async def ask(number: int) -> None:
        await call(serialised[number])

    return ask


def _decode_alone(files: list[Path], pre: Any, seconds: float) -> dict[str, float]:
    """All cores for the rate; one thread, as a single client would see it, for the latency."""
    from alexnet_deploy.images.decode import open_rgb, to_pixels
    from alexnet_deploy.machine.cpu import cores

    contents = [file.read_bytes() for file in files]

    def decode(content: bytes) -> float:
        started = time.perf_counter()
        to_pixels(open_rgb(content), pre)
        return time.perf_counter() - started

    took = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        took += map(decode, contents)
    count, started = 0, time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        while time.perf_counter() < started + seconds / 2:
            count += sum(1 for _ in pool.map(decode, contents))
    return _summary(took, count / (time.perf_counter() - started))


def _engine_alone(engine: Any, pixels_NHWC: np.ndarray, seconds: float) -> dict[str, float]:
    """The largest rate of batches 1, 8 and 32, and the latency of batch 1."""
    from alexnet_deploy.runtime.select import open_runner

    runner = open_runner(engine).runner
    rates, single = [], []
    for batch in (1, 8, 32):
        given = pixels_NHWC[np.arange(batch) % len(pixels_NHWC)]
        runner(given)
        took, end = [], time.perf_counter() + seconds / 3
        while (started := time.perf_counter()) < end:
            runner(given)
            took.append(time.perf_counter() - started)
        rates.append(batch * len(took) / sum(took))
        single = single or took
    return _summary(single, max(rates))


if __name__ == "__main__":
    main()
