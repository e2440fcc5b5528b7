"""How fast is a folder of photos classified, compared with peers and with the limit set by decoder and engine?

    python -m benchmarks.end_to_end PHOTOS [--store engines] [--rounds 5] [--times 2] [--megapixels 12 --images 60]

Peers (``peers.py``): Ultralytics' predict, a DataLoader with eager torch, a plain loop of Pillow and ONNX Runtime. The
limit is the time of decoding alone plus the time of the engine alone, each on all cores. A program that does the same
work on the same cores cannot be faster. With ``--megapixels`` the photos are enlarged first, to the size of a phone's.
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
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from benchmarks import engine_only, peers
from benchmarks.phone_photos import enlarged
from benchmarks.render import save_and_print
from benchmarks.rounds import CACHE, RESULTS, Report, Row, argument_parser, in_process, in_turn

QUESTION = "End to end: a folder of photos, from files to the five likeliest classes"
ULTRALYTICS, TORCH, PLAIN = "Ultralytics predict", "DataLoader + torch eager", "Pillow + ONNX Runtime loop"
QUANTISED = "the same loop, its own quantiser"
PEERS = {
    ULTRALYTICS: peers.ultralytics_predict,
    TORCH: peers.torch_and_dataloader,
    PLAIN: peers.onnxruntime_and_pillow,
    QUANTISED: peers.onnxruntime_quantised,
}
COMPARED = (
    *((ULTRALYTICS, "fp32"), (TORCH, "fp32"), (PLAIN, "fp32")),
    *((PLAIN, "int8"), (QUANTISED, "int8")),
)
"""Peer and precision. Ultralytics and torch run in float32 only."""


def main() -> None:
    """Run one pass (``--way``), or start all of them in rounds."""
    parser = argument_parser(__doc__, "end_to_end")
    parser.add_argument("--times", type=int, default=2, help="how many times a pass goes through the folder")
    parser.add_argument("--megapixels", type=float, help="enlarge the photos to JPEGs of this size first")
    parser.add_argument("--images", type=int, default=60, help="number of photos that --megapixels enlarges")
    parser.add_argument("--way", choices=("ours", "decode", "engine", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="int8", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        files = list(find_images([args.photos])) * args.times
        rate = one_pass(args.way, args.store / f"alexnet-{args.precision}", files)
        print(json.dumps({"images_per_s": rate}))
        return
    photos, question, goal, output = args.photos, QUESTION, "≥ 3.0", args.output
    if args.megapixels:
        name = f"end_to_end_{args.megapixels:g}_megapixels"
        photos = enlarged(photos, CACHE / name, args.megapixels, args.images)
        question, goal = f"{QUESTION}, at {args.megapixels:g} megapixels", "≥ 4.0"
        if output == parser.get_default("output"):
            output = RESULTS / f"{name}.json"
    count = sum(1 for _ in find_images([photos]))
    report = compare(photos.resolve(), args.store.resolve(), args.rounds, args.times, question=question, goal=goal)
    report.notes.insert(0, f"{count} photos, {args.times} times per pass, in batches of {BATCH}.")
    save_and_print(report, output)


def compare(
    photos: Path, store: Path, rounds: int, times: int, *, question: str = QUESTION, goal: str = "≥ 3.0"
) -> Report:
    """One row per peer and precision, and one per precision for the limit; ``goal`` is that of the peers."""
    command = (sys.executable, "-m", "benchmarks.end_to_end", photos, "--store", store, "--times", str(times))

    def images_per_s(way: str, precision: str) -> float:
        return float(in_process([*command, "--way", way, "--precision", precision])["images_per_s"])

    order = [("decode", "fp32")]
    for precision in ("fp32", "int8"):
        order += [("engine", precision), ("ours", precision)]
        order += [(peer, kind) for peer, kind in COMPARED if kind == precision]
    rates = in_turn({f"{way}, {kind}": partial(images_per_s, way, kind) for way, kind in order}, rounds)
    return summarise(rates, question=question, goal=goal)


def summarise(rates: dict[str, list[float]], *, question: str = QUESTION, goal: str = "≥ 3.0") -> Report:
    """The report on ``rates``: images/s per round, by ``"way, precision"``."""
    rows, notes = [], []
    decode = rates["decode, fp32"]
    limits = {
        precision: [1 / (1 / a + 1 / b) for a, b in zip(decode, rates[f"engine, {precision}"], strict=True)]
        for precision in ("fp32", "int8")
    }
    for precision, limit in reversed(limits.items()):
        rows.append(Row(f"ours, {precision}", "images/s", rates[f"ours, {precision}"], "the limit", limit, "≥ 0.8"))
    for peer, precision in COMPARED:
        theirs = rates[f"{peer}, {precision}"]
        row = Row("ours, int8", "images/s", rates["ours, int8"], f"{peer}, {precision}", theirs, goal)
        rows.append(row)
        if not row.meets_goal():
            highest = median(a / b for a, b in zip(limits["int8"], theirs, strict=True))
            notes.append(f"{row.peer}: the limit of our decoder and int8 engine is {highest:.2f} times this peer.")
    for peer, precision in COMPARED:
        if precision == "fp32":
            rows.append(Row("ours, fp32", "images/s", rates["ours, fp32"], f"{peer}, fp32", rates[f"{peer}, fp32"]))
    rows.append(Row("decoding alone", "images/s", decode))
    rows += [Row(f"{kind} engine alone, batch {BATCH}", "images/s", rates[f"engine, {kind}"]) for kind in limits]
    return Report(question, rows, notes)


def one_pass(way: str, bundle: Path, files: Sequence[Path]) -> float:
    """Images per second of one way in this process, after a first batch that does not count."""
    if way == "engine":
        readings = (
            engine_only.one_pass(kind, bundle, BATCH, engine_only.SECONDS) for kind in ("one request", "throughput")
        )
        return max(reading["images_per_s"] for reading in readings)
    engine = open_bundle(bundle)
    classify: peers.Classify
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
    """Decode every file as we do, in one thread per core, and do nothing with the pixels."""

    def some(first: int) -> int:
        out = np.empty((pre.height, pre.width, 3), np.uint8)
        return sum(load_pixels(file, pre, out) is out for file in files[first :: cores()])

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(some, range(cores())))


def _count(runner: Runner, files: Sequence[Path]) -> int:
    return sum(bool(prediction.top) for prediction in predict(runner, files))


if __name__ == "__main__":
    main()
