"""How fast is the engine alone, compared with OpenVINO's benchmark_app and a plain ONNX Runtime loop on the same ONNX?

    python -m benchmarks.engine_only [--store engines] [--rounds 5] [--seconds 1]

Float32 and int8, batch 1 and 32, all cores, random pixels. benchmark_app gets a static shape, which suits it best.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.select import open_runner
from benchmarks.render import save_and_print
from benchmarks.rounds import Report, Row, argument_parser, in_process, in_turn, stdout_of

QUESTION = "Engine only: our runner, OpenVINO's benchmark_app, ONNX Runtime's own loop"
PRECISIONS = ("fp32", "int8")
BATCHES = (1, 32)
WARM_UP_S, SECONDS = 0.2, 1.0
WAYS = ("one request", "throughput", "onnxruntime", "onnxruntime's loop")
"""Passes of this script. benchmark_app is a separate program."""
HINTS = {"one request": "latency", "throughput": "throughput"}
"""Our pass, and the hint that makes benchmark_app run the same way."""
Reading = dict[str, float]
"""``median_ms`` per call and ``images_per_s``."""


def main() -> None:
    """Run one pass (``--way``), or start all of them in rounds."""
    parser = argument_parser(__doc__, "engine_only", photos=False)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a pass, after its warm-up")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        bundle = args.store / f"alexnet-{args.precision}"
        print(json.dumps(one_pass(args.way, bundle, args.batch, args.seconds)))
        return
    save_and_print(compare(args.store.resolve(), args.rounds, args.seconds), args.output)


def compare(store: Path, rounds: int, seconds: float) -> Report:
    """Throughput compared with each peer, and the latency of one image compared with the faster peer."""
    rows, latencies = [], []
    for precision in PRECISIONS:
        for batch in BATCHES:
            case = f"{precision}, batch {batch}"
            found = readings(store, precision, batch, rounds, seconds)
            rates = {way: [reading["images_per_s"] for reading in got] for way, got in found.items()}
            for way, title, peer, theirs in (
                ("one request", "one request", "benchmark_app -hint latency", "app, one request"),
                ("throughput", "requests in parallel", "benchmark_app -hint throughput", "app, throughput"),
                ("onnxruntime", "--runtime onnxruntime", "session.run in a loop", "onnxruntime's loop"),
            ):
                rows.append(Row(f"{case}, {title}", "images/s", rates[way], peer, rates[theirs], "≥ 1.0"))
            if batch == 1:
                ms = {way: [reading["median_ms"] for reading in got] for way, got in found.items()}
                best = [min(both) for both in zip(ms["app, one request"], ms["onnxruntime's loop"], strict=True)]
                latencies.append(Row(f"{case}, default choice", "ms", ms["one request"], "the best", best, "≤ 1.05"))
    return Report(QUESTION, rows + latencies)


def readings(store: Path, precision: str, batch: int, rounds: int, seconds: float) -> dict[str, list[Reading]]:
    """Readings per round, by way. A peer runs right after the pass that it is compared with."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.engine_only", "--store", store]
    command += ["--precision", precision, "--batch", str(batch), "--seconds", str(seconds)]
    onnx = store / f"alexnet-{precision}" / "model.onnx"
    ways: dict[str, Callable[[], Reading]] = {}
    for way in WAYS:
        ways[way] = partial(in_process, [*command, "--way", way])
        if way in HINTS:
            ways[f"app, {way}"] = partial(benchmark_app, onnx, HINTS[way], batch, seconds)
    print(f"{precision}, batch {batch}", file=sys.stderr)
    return in_turn(ways, rounds)


def benchmark_app(onnx: Path, hint: str, batch: int, seconds: float) -> Reading:
    """Run OpenVINO's own program. ``f32`` forbids bfloat16, as our runner does."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).with_name("benchmark_app")
        command: list[str | Path] = [program, "-m", onnx, "-d", "CPU", "-hint", hint, "-infer_precision", "f32"]
        command += ["-shape", f"[{batch},224,224,3]", "-t", str(max(1, round(seconds)))]
        stdout_of([*command, "-report_type", "no_counters", "-report_folder", folder, "-json_stats"])
        (report,) = Path(folder).glob("*.json")
        return parse_app(json.loads(report.read_text()))


def parse_app(report: dict[str, Any]) -> Reading:
    """Two numbers of benchmark_app's JSON report, which has them as text."""
    results = report["execution_results"]
    return {"median_ms": float(results["latency (ms)"]), "images_per_s": float(results["throughput"])}


def one_pass(way: str, bundle: Path, batch: int, seconds: float) -> Reading:
    """Run one of ``WAYS`` in this process, on random pixels."""
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    if way == "onnxruntime's loop":
        import onnxruntime

        session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: pixels_NHWC}
        return timed([partial(session.run, None, feed)], batch, seconds)
    streams = cores() if way == "throughput" else 1
    opened = open_runner(open_bundle(bundle), "onnxruntime" if way == "onnxruntime" else "auto", concurrency=streams)
    runners = [opened.runner, *(opened.runner.fork() for _ in range(streams - 1))]
    return timed([partial(runner, pixels_NHWC) for runner in runners], batch, seconds)


def timed(calls: Sequence[Callable[[], object]], batch: int, seconds: float) -> Reading:
    """Repeat each call in a thread of its own: the median time of a call, and images per second of all threads."""
    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(partial(_repeat, seconds=WARM_UP_S), calls))
        started = time.perf_counter_ns()
        samples_ns = list(chain.from_iterable(pool.map(partial(_repeat, seconds=seconds), calls)))
        elapsed_s = (time.perf_counter_ns() - started) / 1e9
    return {"median_ms": median(samples_ns) / 1e6, "images_per_s": batch * len(samples_ns) / elapsed_s}


def _repeat(call: Callable[[], object], seconds: float) -> list[int]:
    samples_ns = []
    until = time.perf_counter_ns() + seconds * 1e9
    while (before := time.perf_counter_ns()) < until:
        call()
        samples_ns.append(time.perf_counter_ns() - before)
    return samples_ns


if __name__ == "__main__":
    main()
