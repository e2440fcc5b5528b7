"""How fast is a folder of photos classified, beside its peers and beside the limit of decoder and engine?

    python -m benchmarks.end_to_end PHOTOS [--store engines] [--rounds 5] [--times 2]

Peers (``peers.py``): Ultralytics' predict, a DataLoader with eager torch, a plain loop of Pillow and ONNX Runtime. The
limit is what decoding alone and the engine alone, each with all cores, would take one after the other: whoever keeps
all cores busy on the same work can do no better.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from alexnet_deploy.bundle.manifest import open_bundle
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.predict import BATCH, predict
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from benchmarks import peers
from benchmarks.engine_only import SECONDS, one_pass
from benchmarks.rounds import Report, Row, finish, in_process, in_turn, parser

QUESTION = "End to end: a folder of photos, from files to the five likeliest classes"
ULTRALYTICS, TORCH, PLAIN = "Ultralytics predict", "DataLoader + torch eager", "Pillow + ONNX Runtime loop"
QUANTISED = "the same loop, its own quantiser"
PEERS = {
    ULTRALYTICS: peers.ultralytics_predict,
    TORCH: peers.torch_and_dataloader,
    PLAIN: peers.onnxruntime_and_pillow,
    QUANTISED: peers.onnxruntime_quantised,
}
BESIDE = (
    *((ULTRALYTICS, "fp32"), (TORCH, "fp32"), (PLAIN, "fp32")),
    *((PLAIN, "int8"), (QUANTISED, "int8")),
)
"""Torch runs the checkpoint itself, in float32 alone."""


def main() -> None:
    """Parse; either one pass, or all in turn."""
    flags = parser(__doc__, "end_to_end")
    flags.add_argument("--times", type=int, default=2, help="how often a pass goes through the folder")
    flags.add_argument("--way", choices=("ours", "decode", "engine", *PEERS), help=argparse.SUPPRESS)
    flags.add_argument("--precision", default="int8", help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.way:
        files = list(find_images([asked.photos])) * asked.times
        rate = one_way(asked.way, asked.store / f"alexnet-{asked.precision}", files)
        print(json.dumps({"images_per_s": rate}))
        return
    count = sum(1 for _ in find_images([asked.photos]))
    report = compare(asked.photos.resolve(), asked.store.resolve(), asked.rounds, asked.times)
    report.notes.insert(0, f"{count} photos, gone through {asked.times} times a pass, in batches of {BATCH}.")
    finish(report, asked.output)


def compare(photos: Path, store: Path, rounds: int, times: int) -> Report:
    """A row for each peer and precision, and one for the limit of each."""
    command = (sys.executable, "-m", "benchmarks.end_to_end", photos, "--store", store, "--times", str(times))

    def images_per_s(way: str, precision: str) -> float:
        return float(in_process([*command, "--way", way, "--precision", precision])["images_per_s"])

    order = [("decode", "fp32")]
    for precision in ("fp32", "int8"):
        order += [("engine", precision), ("ours", precision)]
        order += [(peer, kind) for peer, kind in BESIDE if kind == precision]
    rates = in_turn({f"{way}, {kind}": partial(images_per_s, way, kind) for way, kind in order}, rounds)
    return summarise(rates)


def summarise(rates: dict[str, list[float]]) -> Report:
    """The rows of what every ``way, precision`` gave, by round."""
    rows, notes = [], []
    decode = rates["decode, fp32"]
    limits = {
        precision: [1 / (1 / a + 1 / b) for a, b in zip(decode, rates[f"engine, {precision}"], strict=True)]
        for precision in ("fp32", "int8")
    }
    for precision, limit in reversed(limits.items()):
        rows.append(Row(f"ours, {precision}", "images/s", rates[f"ours, {precision}"], "the limit", limit, "≥ 0.8"))
    for peer, precision in BESIDE:
        theirs = rates[f"{peer}, {precision}"]
        row = Row("ours, int8", "images/s", rates["ours, int8"], f"{peer}, {precision}", theirs, "≥ 3.0")
        rows.append(row)
        if not row.reached():
            most = median(a / b for a, b in zip(limits["int8"], theirs, strict=True))
            notes.append(f"{row.peer}: the limit of our decoder and int8 engine is {most:.2f} times this peer.")
    for peer, precision in BESIDE:
        if precision == "fp32":
            rows.append(Row("ours, fp32", "images/s", rates["ours, fp32"], f"{peer}, fp32", rates[f"{peer}, fp32"]))
    rows.append(Row("decoding alone", "images/s", decode))
    rows += [Row(f"{kind} engine alone, batch {BATCH}", "images/s", rates[f"engine, {kind}"]) for kind in limits]
    return Report(QUESTION, rows, notes)


def one_way(way: str, bundle: Path, files: Sequence[Path]) -> float:
    """Images a second of one way in this process, the first batch or call not counted."""
    if way == "engine":
        return max(one_pass(kind, bundle, BATCH, SECONDS)["images_per_s"] for kind in ("one request", "throughput"))
    engine = open_bundle(bundle)
    classify: peers.Pass
    if way == "decode":
        classify = partial(decode, files, engine.contract.preprocessing)
    elif way == "ours":
        runner = open_runner(engine).runner
        _count(runner, files[:BATCH])
        classify = partial(_count, runner, files)
    else:
        classify = PEERS[way](bundle, files)
    started = time.perf_counter()
    count = classify()
    seconds = time.perf_counter() - started
    if count != len(files):
        sys.exit(f"{way}: answered {count} of {len(files)} files; give a folder of whole photos")
    return count / seconds


def decode(files: Sequence[Path], pre: Preprocessing) -> int:
    """Our pixels of every file, in a thread a core and nothing behind them."""

    def some(first: int) -> int:
        out = np.empty((pre.height, pre.width, 3), np.uint8)
        return sum(load_pixels(file, pre, out) is out for file in files[first :: cores()])

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(some, range(cores())))


def _count(runner: Runner, files: Sequence[Path]) -> int:
    return sum(bool(prediction.top) for prediction in predict(runner, files))


if __name__ == "__main__":
    main()
