"""One pass of a run, in a process of its own: ``python -m benchmarks.gpu.passes KIND --way ... --precision ...``.

Prints what ``parts`` reads. An error is kept in its own words and does not fail the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError, InputError, one_line
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.samples import sample_photos
from benchmarks.gpu.engine_pass import engine
from benchmarks.gpu.ways import runtime_of, tell
from benchmarks.peers.task import Task


def main(argv: Sequence[str] | None = None) -> None:
    """Run one pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=PASSES)
    parser.add_argument("--way", default="")
    parser.add_argument("--precision", required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--batches", type=numbers, default=(1, 8, 32, 128))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train-batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, help="of a small network with drawn weights, for a dry run")
    args = parser.parse_args(argv)
    try:
        PASSES[args.kind](args)
    except DeployError as exc:
        tell(failed=str(exc))
    except Exception as exc:
        tell(failed=f"{type(exc).__name__}: {one_line(exc, 1000)}")


def numbers(text: str) -> tuple[int, ...]:
    """``1,8,32`` as numbers."""
    return tuple(int(number) for number in text.split(","))


def export(args: argparse.Namespace) -> None:
    """The checkpoint as ONNX, which every engine is built from."""
    from alexnet_deploy.model.export import export as export_onnx

    if args.hidden is not None:
        write_small(args.weights, args.hidden)
    export_onnx(args.weights, args.store / "alexnet.onnx")
    tell(ran="export")


def write_small(path: Path, hidden: int) -> None:
    """A checkpoint of a network with ``hidden`` units per dense layer and the same weights in every run."""
    import torch

    from alexnet_deploy.contract import ModelContract
    from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
    from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint

    arch = get_architecture("alexnet", num_classes=3, hidden=hidden)
    torch.manual_seed(0)
    initialise(model := AlexNet(arch), "kaiming")
    contract = ModelContract("alexnet", ("a", "b", "c"), ("a", "b", "c"))
    save_checkpoint(Checkpoint(arch, contract, dict(model.state_dict()), {"source": "drawn"}), path)


def build(args: argparse.Namespace) -> None:
    """A bundle of one precision, with kernels for each batch size that is measured."""
    profiles = tuple(BatchProfile(1, count, count) for count in args.batches)
    settings = BuildSettings(plan_options=PlanOptions(profiles=profiles, tf32=args.precision == "tf32"))
    if args.precision == "int8":  # a dozen photos: only speed is measured
        settings = dataclasses.replace(settings, calibration_images=12)
    started = time.perf_counter()
    bundle = build_engine(
        args.store / "alexnet.onnx",
        args.store / args.precision,
        precision="fp32" if args.precision == "tf32" else args.precision,
        calibration_data=sample_photos()[0].parent if args.precision == "int8" else None,
        settings=settings,
    )
    plans = ", ".join(f"{plan.builder} {plan.version} for {plan.target}" for plan, _ in open_bundle(bundle).plans)
    tell(ran=plans or "no TensorRT plan", cases={"build": {"seconds": time.perf_counter() - started}})


def infer(args: argparse.Namespace) -> None:
    """The command as a user gives it, start and end included; all photos must get an answer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = linked(args, Path(scratch), args.photos, "photos")
        bundle, runtime = args.store / args.precision, runtime_of(args.way, args.device)
        infer_once([str(sample_photos()[0])], bundle, runtime, Path(scratch))  # compares its answers, once
        started = time.perf_counter()
        count = infer_once([str(folder)], bundle, runtime, Path(scratch))
        seconds = time.perf_counter() - started
    tell(ran=runtime, cases={"infer": {"photos": count, "seconds": seconds, "images_per_s": count / seconds}})


def infer_once(images: Sequence[str], bundle: Path, runtime: str, scratch: Path) -> int:
    """Run ``infer``; the number of answers. InputError with its own words if it fails or leaves a photo out."""
    output = scratch / "answers.jsonl"
    command = [sys.executable, "-m", "alexnet_deploy", "infer", *images, "--engine", str(bundle), "--runtime", runtime]
    command += ["--format", "jsonl", "--output", str(output), "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"infer: exit {done.returncode}: {one_line(done.stderr, 1000)}")
    rows = output.read_text(encoding="utf-8").splitlines()
    wrong = [row for row in map(json.loads, rows) if row["error"] is not None]
    if wrong:
        raise InputError(f"infer: {len(wrong)} of {len(rows)} photos failed, the first one: {wrong[0]['error']}")
    return len(rows)


def training(args: argparse.Namespace) -> None:
    """Our Trainer and loader on files, beside a hand-written loop on one batch in memory."""
    from alexnet_deploy.contract import Preprocessing
    from alexnet_deploy.model.architecture import get_architecture
    from benchmarks.training.loop import bare_loop, begin, rate
    from training.data.lists.listing import list_class_folders
    from training.data.prefetch import on_device
    from training.loop.device import loader_processes
    from training.loop.run import Run
    from training.recipes.named import get_recipe

    with tempfile.TemporaryDirectory() as scratch:
        for name in ("a", "b", "c"):
            folder = linked(args, Path(scratch), max(args.train_batch, args.photos // 6), name)
        images = list_class_folders(folder)
        (output := Path(scratch) / "run").mkdir()
        small = {} if args.hidden is None else {"hidden": args.hidden}
        recipe = dataclasses.replace(get_recipe("torchvision"), sides=(), batch=args.train_batch)
        run = Run(
            get_architecture("alexnet", num_classes=len(images.class_ids), **small),
            recipe,
            images,
            images,
            images.class_ids,
            Preprocessing(resize="stretch", resize_to=None),
            output,
            workers=loader_processes() if args.device == "cuda" else 1,
            cache=args.way == "decoded once",
            precision=args.precision,
        )
        trainer, loaded = begin(run)
        batches = on_device(loaded, trainer.device)  # as training itself does

        def ours(step: int) -> float:
            pixels_NHWC, targets_N = next(batches)
            return float(trainer.step(step, 1e-4, pixels_NHWC, targets_N).item())

        bare = bare_loop(run, trainer.device)
        rates = [rate(step, args.steps, recipe.batch) for step in (ours, bare)]
    tell(
        ran=f"torch on {trainer.device}, {run.workers} processes that decode, batch {recipe.batch}",
        cases={"training": {"images_per_s": rates[0], "bare_images_per_s": rates[1]}},
    )


def linked(args: argparse.Namespace, scratch: Path, count: int, name: str) -> Path:
    """A folder with the class folder ``name``: ``count`` links to the photos, each several times if they are fewer."""
    found = sample_photos() if args.images is None else list(islice(find_images([args.images]), count))
    return Task(args.store, list(islice(cycle(found), count)), scratch).folder(name)


PASSES: dict[str, Callable[[argparse.Namespace], None]] = {
    "export": export,
    "build": build,
    "engine": engine,
    "infer": infer,
    "training": training,
}

if __name__ == "__main__":
    main()
