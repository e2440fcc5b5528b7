"""What does one card do, from the engine alone to training? Everything in one run, each part with a time limit.

    python -m benchmarks.gpu [--images FOLDER] [--limit 600]      on a card: writes results/gpu-<card>.json and the page
    python -m benchmarks.gpu --device cpu                         without one: passes through every part, no result
    python -m benchmarks.gpu --render                             docs/gpu.md again from the results that there are

Needs no network. A part that cannot run says why, and the run goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.machine.gpu import nvidia_smi
from alexnet_deploy.runtime.cuda.device import open_device
from benchmarks.gpu import page
from benchmarks.gpu.parts import Part, run_parts
from benchmarks.gpu.result import GpuResult, PartResult
from benchmarks.gpu.ways import OURS
from benchmarks.rounds import CACHE, RESULTS, ROOT, environment

PRECISIONS = ("fp16", "fp32", "tf32", "int8")
ENGINES = ("TensorRT", "torch CUDA graph", "ONNX Runtime CUDA", "torch.compile", "torch eager")
"""In order of value, should the time run out."""
DRY_RUN = {"photos": 24, "rounds": 1, "batches": "2", "seconds": 0.02, "steps": 1, "train_batch": 4, "hidden": 32}
"""With a small network whose weights are drawn, unless ``--weights`` names one."""
FULL_RUN = {"photos": 10_000, "rounds": 3, "batches": "1,8,32,128", "seconds": 0.7, "steps": 30, "train_batch": 256}
PACKAGES = (
    *("tensorrt-cu13", "tensorrt-rtx-cu13", "cuda-python", "cuda-bindings", "pycuda", "nvidia-ml-py"),
    *("nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime", "triton"),
)
"""Beside those of ``rounds.environment``."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, save, and after a run on a card render the page."""
    args = parser().parse_args(argv)
    if args.render:
        page.write()
        return
    dry_run = args.device == "cpu"
    for name, value in (DRY_RUN if dry_run else FULL_RUN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    card, driver, capability = ("no card", "none", "none") if dry_run else card_here()
    ends = time.monotonic() + args.limit
    store = args.store.resolve()
    store.mkdir(parents=True, exist_ok=True)
    result = GpuResult(
        card,
        driver,
        capability,
        datetime.now(UTC).date().isoformat(),
        args.revision or revision(),
        environment() | versions(),
        settings(args),
        [],
        dry_run,
    )
    output = args.output or (CACHE / "gpu" / "dry-run.json" if dry_run else RESULTS / result.file_name)
    if output.is_dir():
        output /= "gpu-dry-run.json" if dry_run else result.file_name
    built: list[PartResult] = []

    def keep(found: list[PartResult]) -> None:
        result.parts[:] = built + found
        result.save(output)

    keep([])
    built += run_parts(wanted(builds(args, store), args.only), 1, args.limit / 2, on_result=keep)
    left_s = ends - time.monotonic()
    keep(run_parts(wanted(measurements(args, store), args.only), args.rounds, left_s, on_result=keep))
    print(page.section(result))
    print(f"written to {output}", file=sys.stderr)
    if output.resolve().parent == RESULTS.resolve():
        page.write()


def parser() -> argparse.ArgumentParser:
    """The command line; a dry run has defaults of its own."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--images", type=Path, help="folder of photos; default: the sample photos, each many times")
    made.add_argument("--photos", type=int, help="number of photos for infer; default: 10000")
    made.add_argument("--weights", type=Path, help="checkpoint; default: the shipped one")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run, no result of a GPU")
    made.add_argument("--limit", type=float, default=600.0, help="seconds for the whole run; default: 600")
    made.add_argument("--part-limit", type=float, default=90.0, help="seconds for one part; default: 90")
    made.add_argument("--rounds", type=int, help="default: 3, as many as the time allows")
    made.add_argument("--batches", help="default: 1,8,32,128")
    made.add_argument("--seconds", type=float, help="length of a measurement of one batch size; default: 0.7")
    made.add_argument("--steps", type=int, help="steps of training; default: 30")
    made.add_argument("--train-batch", type=int, help="default: 256")
    made.set_defaults(hidden=None)
    made.add_argument("--only", nargs="+", metavar="TEXT", default=[], help="parts whose name contains one of these")
    made.add_argument("--store", type=Path, default=CACHE / "gpu" / "engines", help="where the engines are built")
    made.add_argument("--revision", help="git revision, where there is no git")
    made.add_argument("--output", type=Path, help="file or folder; default: benchmarks/results/gpu-<card>.json")
    made.add_argument("--render", action="store_true", help="only render docs/gpu.md from the results that there are")
    return made


def card_here() -> tuple[str, str, str]:
    """Name, driver and compute capability of the GPU; ends the run where CUDA cannot use one."""
    try:
        device = open_device()
    except UnavailableError as exc:
        sys.exit(f"no GPU to measure: {exc}; a dry run without one: python -m benchmarks.gpu --device cpu")
    capability = device.capability
    device.close()
    fields = ((nvidia_smi() or "").partition("\n")[0] + ",,").split(",")
    return fields[0].strip() or "unknown card", fields[1].strip() or "unknown", capability


def builds(args: argparse.Namespace, store: Path) -> list[Part]:
    """The ONNX and the engines that are measured; each is built anew, for this card and its TensorRT."""
    parts = [part(args, store, "export", "fp32", "ONNX")]
    return parts + [part(args, store, "build", precision, "engine") for precision in PRECISIONS]


def measurements(args: argparse.Namespace, store: Path) -> list[Part]:
    """Everything that is measured in rounds, in order of value."""
    parts = [part(args, store, "engine", precision, way) for precision in PRECISIONS for way in ENGINES]
    parts += [part(args, store, "infer", "fp16", way) for way in OURS]
    return parts + [part(args, store, "training", "bf16", way) for way in ("from files", "decoded once")]


def part(args: argparse.Namespace, store: Path, kind: str, precision: str, way: str) -> Part:
    """One pass of ``passes``."""
    hidden = ["env", "CUDA_VISIBLE_DEVICES="] if args.device == "cpu" else []
    command = [*hidden, sys.executable, "-m", "benchmarks.gpu.passes", kind, "--precision", precision, "--way", way]
    command += ["--device", args.device, "--store", str(store), "--photos", str(args.photos)]
    command += ["--batches", args.batches, "--seconds", str(args.seconds)]
    command += ["--steps", str(args.steps), "--train-batch", str(args.train_batch)]
    if args.weights:
        command += ["--weights", str(args.weights.resolve())]
    elif args.hidden is not None:
        command += ["--hidden", str(args.hidden), "--weights", str(store / "small.safetensors")]
    command += ["--images", str(args.images.resolve())] if args.images else []
    return Part(kind, precision, way, command, args.part_limit)


def wanted(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """Those whose name contains one of ``only``; all without any. Engines are always built."""
    return [each for each in parts if not only or each.kind in ("export", "build") or any(w in each.name for w in only)]


def settings(args: argparse.Namespace) -> dict[str, str]:
    """What was asked for."""
    weights = args.weights.name if args.weights else "shipped" if args.hidden is None else "drawn, small"
    return {"photos": str(args.photos), "batches": args.batches, "weights": weights}


def revision() -> str:
    """Git's name of the code here, with ``-dirty`` for uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Versions of what computes on a GPU."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
