"""How fast is a folder of photos classified, and in how much memory, compared with peers and with the limit?

    python -m benchmarks.end_to_end PHOTOS [--store engines] [--rounds 5] [--times 2] [--megapixels 12 --images 60]

``peers`` has them and how each is run; ``--peers timm`` takes those whose name contains a word. The limit is the time
of decoding alone plus the time of the engine alone, each on all cores: a program that does the same work on the same
cores cannot be faster. With ``--megapixels`` the photos are enlarged first, to the size of a phone's.

Before the rounds every way goes through the photos once. Its answers are compared with ours in float32, and the
benchmark ends where they differ more than rounding explains: a peer is never timed on other work. Memory is measured in
that pass.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from benchmarks import engine_only
from benchmarks.memory import in_process_with_peak
from benchmarks.peers.chosen import COMPARED, PEERS, QUANTISED
from benchmarks.peers.onnxruntime_peer import quantised_bundle
from benchmarks.peers.task import Classify, Task
from benchmarks.phone_photos import enlarged
from benchmarks.render import save_and_print
from benchmarks.rounds import CACHE, RESULTS, Report, Row, argument_parser, in_process, in_turn

QUESTION = "End to end: a folder of photos, from files to the five likeliest classes"
QUANTISED_BUNDLE = CACHE / "onnxruntime-int8"
OTHER_ANSWERS = {"fp32": 0.02, "int8": 0.035}
"""Share of photos that rounding, another decoder's too, usually gives another answer than our float32 engine's.

Measured on 300 photos of classes that the shipped model does not know, where margins are thin: peers in float32 0.3 %
at most, int8 engines 2 to 4 %. Of other work: pixels moved by one column 10 %, a resize to 256 instead of 272 14 %,
mirrored photos 28 %, a stretch instead of a crop 40 %, exchanged colours 43 %.
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """``top1`` is the likeliest class per file, in order; empty for the parts of the limit."""

    images_per_s: float
    top1: list[int]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the pass before the rounds found: share of our float32 answers, and peak memory of all processes."""

    agreement: float
    peak_MiB: float


def main() -> None:
    """Run one pass (``--way``), or start all of them in rounds."""
    parser = argument_parser(__doc__, "end_to_end")
    parser.add_argument("--times", type=int, default=2, help="how many times a pass goes through the folder")
    parser.add_argument("--megapixels", type=float, help="enlarge the photos to JPEGs of this size first")
    parser.add_argument("--images", type=int, default=60, help="number of photos that --megapixels enlarges")
    parser.add_argument("--peers", default="", help="only peers with this word in their name")
    parser.add_argument("--weights", type=Path, help="checkpoint of the engines; without it the shipped one")
    parser.add_argument("--way", choices=("ours", "decode", "engine", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="int8", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        files = list(find_images([args.photos])) * args.times
        bundle = QUANTISED_BUNDLE if args.way == QUANTISED else args.store / f"alexnet-{args.precision}"
        print(json.dumps(asdict(one_pass(args.way, bundle, files, args.weights))))
        return
    photos, question, goal, output = args.photos, QUESTION, "≥ 3.0", args.output
    if args.megapixels:
        name = f"end_to_end_{args.megapixels:g}_megapixels"
        photos = enlarged(photos, CACHE / name, args.megapixels, args.images)
        question, goal = f"{QUESTION}, at {args.megapixels:g} megapixels", "≥ 4.0"
        if output == parser.get_default("output"):
            output = RESULTS / f"{name}.json"
    compared = tuple((peer, precision) for peer, precision in COMPARED if args.peers.lower() in peer.lower())
    if not compared:
        parser.error(f"--peers {args.peers}: none of {', '.join(PEERS)}")
    if any(peer == QUANTISED for peer, _ in compared):
        quantised_bundle(args.store / "alexnet-fp32", args.photos, QUANTISED_BUNDLE)
    count = sum(1 for _ in find_images([photos]))
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.end_to_end", photos.resolve()]
    command += ["--store", args.store.resolve()] + (["--weights", args.weights.resolve()] if args.weights else [])
    found = check([*command, "--times", "1"], compared)
    rates = measure([*command, "--times", str(args.times)], compared, args.rounds)
    report = summarise(rates, found, question=question, goal=goal)
    report.notes.insert(0, f"{count} photos, {args.times} times per pass, in batches of {BATCH}.")
    save_and_print(report, output)


Compared = Sequence[tuple[str, str]]
"""Peers and their precisions."""


def check(command: Sequence[str | Path], compared: Compared) -> dict[str, Checked]:
    """One pass of ours and of each peer, by ``"way, precision"``; other answers than ours end the benchmark."""
    found: dict[str, Checked] = {}
    reference: list[int] = []
    for way, precision in (("ours", "fp32"), ("ours", "int8"), *compared):
        answered, peak_MiB = in_process_with_peak([*command, "--way", way, "--precision", precision])
        reference = reference or answered["top1"]
        found[f"{way}, {precision}"] = Checked(agreement(way, precision, answered["top1"], reference), peak_MiB)
        print(f"check: {way}, {precision}: {found[f'{way}, {precision}']}", file=sys.stderr, flush=True)
    return found


def agreement(way: str, precision: str, top1: Sequence[int], reference: Sequence[int]) -> float:
    """Share of photos with the same answer; the benchmark ends if more differ than ``OTHER_ANSWERS`` explains.

    The bound is three standard deviations above the usual number, so it is wider for few photos.
    """
    usual = OTHER_ANSWERS[precision] * len(reference)
    if (other := sum(a != b for a, b in zip(top1, reference, strict=True))) > usual + 3 * math.sqrt(usual):
        sys.exit(
            f"{way}, {precision}: {other} of {len(reference)} photos have another answer than our float32 engine's, "
            f"{usual:.0f} are usual: it does other work; look for another preprocessing, other weights"
        )
    return 1 - other / len(reference)


def measure(command: Sequence[str | Path], compared: Compared, rounds: int) -> dict[str, list[float]]:
    """Images/s per round of ours, of each peer and of the parts of the limit, by ``"way, precision"``."""

    def images_per_s(way: str, precision: str) -> float:
        return float(in_process([*command, "--way", way, "--precision", precision])["images_per_s"])

    order = [("decode", "fp32")]
    for precision in ("fp32", "int8"):
        order += [("engine", precision), ("ours", precision)]
        order += [(peer, kind) for peer, kind in compared if kind == precision]
    return in_turn({f"{way}, {kind}": partial(images_per_s, way, kind) for way, kind in order}, rounds)


def summarise(
    rates: dict[str, list[float]],
    found: dict[str, Checked],
    *,
    question: str = QUESTION,
    goal: str = "≥ 3.0",
) -> Report:
    """The report on ``rates`` and ``found``; ``goal`` is that of int8 beside the peers."""
    rows, notes = [], []
    decode = rates["decode, fp32"]
    limits = {
        precision: [1 / (1 / a + 1 / b) for a, b in zip(decode, rates[f"engine, {precision}"], strict=True)]
        for precision in ("fp32", "int8")
    }
    compared = [name for name in found if not name.startswith("ours, ")]
    for precision, limit in reversed(limits.items()):
        rows.append(Row(f"ours, {precision}", "images/s", rates[f"ours, {precision}"], "the limit", limit, "≥ 0.8"))
    for peer in compared:
        row = Row("ours, int8", "images/s", rates["ours, int8"], peer, rates[peer], goal)
        rows.append(row)
        if not row.meets_goal():
            highest = median(a / b for a, b in zip(limits["int8"], rates[peer], strict=True))
            notes.append(f"{peer}: the limit of our decoder and int8 engine is {highest:.2f} times this peer.")
    for peer in compared:
        if peer.endswith(", fp32"):
            rows.append(Row("ours, fp32", "images/s", rates["ours, fp32"], peer, rates[peer]))
    rows.append(Row("decoding alone", "images/s", decode))
    rows += [Row(f"{kind} engine alone, batch {BATCH}", "images/s", rates[f"engine, {kind}"]) for kind in limits]
    for peer in compared:
        case = f"ours, {peer.rpartition(', ')[2]}"
        ours, theirs = found[case].peak_MiB, found[peer].peak_MiB
        rows.append(Row(f"{case}, peak memory", "MiB", [ours], peer, [theirs]))
    same = {name: f"Our float32 answer on {checked.agreement:.1%} of the photos." for name, checked in found.items()}
    how = {"ours, int8": f"`infer`'s reader and runner. {same['ours, int8']}"}
    how |= {name: f"{PEERS[name.rpartition(', ')[0]].how}. {same[name]}" for name in compared}
    return Report(question, rows, notes, how=how)


def one_pass(way: str, bundle: Path, files: Sequence[Path], weights: Path | None = None) -> Pass:
    """One way in this process, after what warms it up and does not count: a first batch at least, of zeros for MLPerf.

    Peers with workers go through all files before, so that their workers have started.
    """
    if way == "engine":
        readings = (
            engine_only.one_pass(kind, bundle, BATCH, engine_only.SECONDS) for kind in ("one request", "throughput")
        )
        return Pass(max(reading["images_per_s"] for reading in readings), [])
    with TemporaryDirectory() as scratch:
        classify = _prepare(way, Task(bundle, files, Path(scratch), weights))
        started = time.perf_counter()
        answers = classify()
        seconds = time.perf_counter() - started
    if len(answers) != len(files):
        sys.exit(f"{way}: answered {len(answers)} of {len(files)} files; give a folder of whole photos")
    return Pass(len(answers) / seconds, [] if way == "decode" else answers)


def _prepare(way: str, task: Task) -> Classify:
    engine = open_bundle(task.bundle)
    if way == "decode":
        decode(task.files[:BATCH], engine.contract.preprocessing)  # the first one imports Pillow's plugins
        return partial(decode, task.files, engine.contract.preprocessing)
    if way == "ours":
        runner = open_runner(engine).runner
        _answers(runner, task.files[:BATCH])
        return partial(_answers, runner, task.files)
    return PEERS[way].prepare(task)


def decode(files: Sequence[Path], pre: Preprocessing) -> list[int]:
    """Decode every file as we do, in one thread per core, and do nothing with the pixels.

    The threads share one iterator: a core that is free takes the next file, so no core waits for a slower one.
    """
    waiting = iter(files)

    def some(_: int) -> list[int]:
        out = np.empty((pre.height, pre.width, 3), np.uint8)
        return [0 for file in waiting if load_pixels(file, pre, out) is out]

    with ThreadPoolExecutor(cores()) as pool:
        return list(chain.from_iterable(pool.map(some, range(cores()))))


def _answers(runner: Runner, files: Sequence[Path]) -> list[int]:
    return [prediction.top[0].index for prediction in predict(runner, files) if prediction.top]


if __name__ == "__main__":
    main()
