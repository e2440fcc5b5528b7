"""How fast and how accurate is each precision in ONNX Runtime, and INT8 beside ONNX Runtime's own quantiser?

    python -m benchmarks.onnxruntime_int8 full.onnx imagenette/train imagenette/val [--rounds 9] [--seconds 0.3]

Both quantisers start from the same float32 ONNX and calibrate on the same pixels. Speed is that of one
thread on random pixels, per second of its processor time: what other programs take does not count, and with one thread
nothing spins. All sessions are in one process, since they are of one runtime, and take short turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.evaluation.accuracy import accuracy_delta
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
from alexnet_deploy.runtime.select import open_runner
from benchmarks.peers.onnxruntime_peer import CALIBRATION_BATCH, CALIBRATION_IMAGES, quantise
from benchmarks.render import save_and_print
from benchmarks.rounds import Report, Row, argument_parser, in_turn

QUESTION = "Quantised engines in ONNX Runtime, and ONNX Runtime's own quantiser"
QUANTISED: tuple[Precision, ...] = ("int8", "int8+fp16", "fp8")
PEER = "onnxruntime.quantization"
UNIT = "images per CPU s"
BATCHES = (1, 32)
GOALS: dict[tuple[str, int], str] = {("int8", 1): "≥ 2.0", ("int8", 32): "≥ 3.0"}


def main() -> None:
    """Make all models, measure their speed in rounds and their accuracy."""
    parser = argument_parser(__doc__, "onnxruntime_int8", photos=False)
    parser.add_argument("onnx", type=Path, help="float model, as `alexnet-deploy export` writes it")
    parser.add_argument("train", type=Path, help="folder to calibrate on")
    parser.add_argument("val", type=Path, help="labelled folder to measure accuracy on")
    parser.add_argument("--seconds", type=float, default=0.3, help="processor time of a turn, after one call")
    parser.set_defaults(rounds=9)
    args = parser.parse_args()
    with TemporaryDirectory() as models, resolve_engine(str(args.onnx), args.store) as engine:
        made = make(engine, args.train, Path(models))
        rows = [row for batch in BATCHES for row in speeds(made, batch, args.rounds, args.seconds)]
        report = Report(QUESTION, rows, accuracies(made, args.val))
    save_and_print(report, args.output)


def make(engine: Engine, train: Path, folder: Path) -> dict[str, Engine]:
    """The float32 ``engine``, its other precisions, and the peer's model as ``PEER``, by name; files in ``folder``.

    The peer's is one of float32 for us: ONNX Runtime opens its file as it is.
    """
    chosen = choose_images(train, count=CALIBRATION_IMAGES, seed=0)
    batches = partial(chosen.batches, engine.contract.preprocessing, CALIBRATION_BATCH)
    made = {"fp32": replace(engine, name="fp32")}
    for name in (*QUANTISED, "fp16", PEER):
        path = folder / f"{name}.onnx"
        made[name] = Engine(name, path, engine.contract, "fp32" if name == PEER else name, None)
    for precision in QUANTISED:
        to_quantized(engine.onnx_path, made[precision].onnx_path, precision=precision, batches=batches)
    to_fp16(engine.onnx_path, made["fp16"].onnx_path)
    quantise(engine.onnx_path, made[PEER].onnx_path, engine.contract.input_name, batches())
    return made


def speeds(made: Mapping[str, Engine], batch: int, rounds: int, seconds: float) -> list[Row]:
    """Each precision beside float32, and int8 beside the peer."""
    pre = made["fp32"].contract.preprocessing
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (batch, pre.height, pre.width, 3), dtype=np.uint8)
    with ExitStack() as stack:
        ways: dict[str, Callable[[], float]] = {}
        for name, engine in made.items():
            opened = open_runner(engine, "onnxruntime", threads=1, verify=False)
            runner = stack.enter_context(closing(opened.runner))
            ways[name] = partial(images_per_cpu_s, partial(runner, pixels_NHWC), batch, seconds)
        rates = in_turn(ways, rounds)
    rows = [
        Row(f"{name}, batch {batch}", UNIT, rates[name], "fp32", rates["fp32"], GOALS.get((name, batch), ""))
        for name in (*QUANTISED, "fp16")
    ]
    return [*rows, Row(f"int8, batch {batch}", UNIT, rates["int8"], PEER, rates[PEER], "≥ 1.0")]


def images_per_cpu_s(call: Callable[[], object], batch: int, seconds: float) -> float:
    """Repeat ``call`` on ``batch`` images for some processor time of this process."""
    call()
    calls, started = 0, time.process_time()
    while (taken := time.process_time() - started) < seconds or not calls:
        call()
        calls += 1
    return batch * calls / taken


def accuracies(made: Mapping[str, Engine], val: Path) -> list[str]:
    """Top-1 of each model in ONNX Runtime on all images of ``val``, as notes."""
    contract = made["fp32"].contract
    runners = [OnnxRuntimeRunner(engine.onnx_path, contract, precision=engine.precision) for engine in made.values()]
    # What the rewriting must not change.
    runners.append(OnnxRuntimeRunner(made["int8"].onnx_path, contract, precision="int8", exact=True))
    answers = collect_answers(runners, list_labelled(val, contract))
    notes = []
    for index, name in enumerate([*made, "int8, node by node as the ONNX says"]):
        points = accuracy_delta(answers, 0, index).points
        right = float(np.mean(answers.logits_NK[index].argmax(axis=1) == answers.target_N))
        notes.append(f"{name}: top-1 {100 * right:.2f} % of {len(answers.files)} images, {points:+.2f} points")
    return notes


if __name__ == "__main__":
    main()
