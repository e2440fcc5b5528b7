"""Top-1 of each precision, calibration method and number of images, compared with float32 image by image.

    alexnet-deploy export --weights runs/full/checkpoint.safetensors -o full.onnx
    python benchmarks/quantisation.py full.onnx imagenette/train imagenette/val --output quantisation-full.json

Prints a Markdown table for OpenVINO and ONNX Runtime. TensorRT plans need a GPU, and their typed ONNX is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.contract import ModelContract, Precision
from alexnet_deploy.evaluation.accuracy import accuracy, accuracy_delta
from alexnet_deploy.evaluation.answers import Answers, collect_answers
from alexnet_deploy.files import atomic_file
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled
from alexnet_deploy.precision.calibration.cache import CalibrationCache
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from alexnet_deploy.precision.types import METHODS_FOR, Method
from alexnet_deploy.runtime.select import open_runner

COUNTS = (32, 128, 512)
BATCH = 16
RUNTIMES = ("openvino", "onnxruntime")


def main() -> None:
    """Make every variant, measure it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("onnx", type=Path, help="float model, as `alexnet-deploy export` writes it")
    parser.add_argument("train", type=Path, help="folder to calibrate on")
    parser.add_argument("val", type=Path, help="labelled folder to measure on")
    parser.add_argument("--output", type=Path, required=True, help="JSON of all results")
    parser.add_argument("--seed", type=int, default=0, help="decides which images calibrate")
    asked = parser.parse_args()
    rows = []
    with resolve_engine(str(asked.onnx), Path("engines")) as engine, tempfile.TemporaryDirectory() as scratch:
        data = list_labelled(asked.val, engine.contract)
        to_fp16(engine.onnx_path, half := Path(scratch) / "fp16.onnx")
        base = answer(engine, {"fp32": (engine.onnx_path, "fp32"), "fp16": (half, "fp16")}, data)
        reference = {runtime: base["fp32", runtime] for runtime in RUNTIMES}
        for count in (0, *COUNTS):
            variants = quantise(engine, asked.train, count, asked.seed, Path(scratch)) if count else {}
            for (name, runtime), found in (answer(engine, variants, data) if count else base).items():
                rows.append(row_of(name, found, reference[runtime], engine.contract, runtime))
            print(f"{asked.onnx}: {count} images done", flush=True)
    with atomic_file(asked.output) as path:
        path.write_text(json.dumps({"model": asked.onnx.name, "images": len(data.files), "rows": rows}, indent=1))
    print(markdown(rows))


Variants = dict[str, tuple[Path, str]]
"""By name: typed ONNX and precision."""


def quantise(engine: Engine, train: Path, count: int, seed: int, folder: Path) -> Variants:
    """int8 by every method, calibrated on the same ``count`` images; with most images the other precisions as well.

    Overwrites the files of the previous call.
    """
    images = choose_images(train, count=count, seed=seed)
    cache = CalibrationCache(folder / "cache", {"images": images.digest()})
    make = partial(
        to_quantized,
        engine.onnx_path,
        batches=partial(images.batches, engine.contract.preprocessing, BATCH),
        cache=cache,
    )
    made: Variants = {}

    wanted: list[tuple[Precision, Method]] = [("int8", method) for method in METHODS_FOR["int8"]]
    if count == max(COUNTS):
        wanted += [("int8+fp16", "entropy"), ("fp8", "max")]
    for precision, method in wanted:
        make(out := folder / f"{precision}-{method}.onnx", precision=precision, method=method)
        made[f"{precision}, {method}, {count}"] = out, precision
    return made


def answer(engine: Engine, variants: Variants, data: LabelledImages) -> dict[tuple[str, str], Answers]:
    """The answers of each variant in each runtime, by name and runtime; the images are decoded once for all."""
    names = [(name, runtime) for name in variants for runtime in RUNTIMES]
    with contextlib.ExitStack() as stack:
        runners = []
        for name, runtime in names:
            onnx_path, precision = variants[name]
            variant = dataclasses.replace(engine, onnx_path=onnx_path, precision=precision)
            runners.append(open_runner(variant, runtime).runner)
            stack.callback(runners[-1].close)
        found = collect_answers(runners, data)
    return {
        name: dataclasses.replace(found, logits_NK=(logits,))
        for name, logits in zip(names, found.logits_NK, strict=True)
    }


def row_of(name: str, found: Answers, base: Answers, contract: ModelContract, runtime: str) -> dict[str, object]:
    """One variant in one runtime, compared with float32 in the same runtime."""
    both = dataclasses.replace(base, logits_NK=(base.logits_NK[0], found.logits_NK[0]))
    measured, beside = accuracy(both, 1, contract), accuracy_delta(both, 0, 1)
    return {
        "name": name,
        "runtime": runtime,
        "top1_percent": measured.top1_percent,
        "top5_percent": measured.top5_percent,
        "points": beside.points,
        "low": beside.points_interval.low,
        "high": beside.points_interval.high,
        "agreement_percent": beside.agreement_percent,
        "lost": beside.lost,
        "won": beside.won,
    }


def markdown(rows: list[dict[str, object]]) -> str:
    """One line per variant, with the runtimes side by side."""
    lines = [f"| engine | {' | '.join(f'{r}: top-1 % | points (95 %) | agree %' for r in RUNTIMES)} |"]
    lines.append("|---" + "|---:" * (3 * len(RUNTIMES)) + "|")
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [
            f"{row['top1_percent']:.2f} | {row['points']:+.2f} ({row['low']:+.2f}..{row['high']:+.2f}) | "
            f"{row['agreement_percent']:.2f}"
            for runtime in RUNTIMES
            for row in rows
            if (row["name"], row["runtime"]) == (name, runtime)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
