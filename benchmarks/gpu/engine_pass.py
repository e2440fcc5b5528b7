"""The pass of one engine: the milliseconds of a call for each batch size, after its answers were compared."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.errors import ProofError, UnavailableError
from alexnet_deploy.machine.gpu import open_gpu
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.verification.difference import difference
from alexnet_deploy.verification.photos import photo_pixels
from benchmarks.gpu.result import Reading
from benchmarks.gpu.ways import OURS, TORCH, runtime_of, tell

Call = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
MIN_CALLS = 10
TOLERANCE = {"fp32": 1e-3, "tf32": 3e-2, "fp16": 3e-2}
"""The precisions of torch, and how far its logits may be off, as a share of their range: those of
``runtime.reference``, where the reasons are."""


def engine(args: argparse.Namespace) -> None:
    """Milliseconds per call, from pixels in memory to logits in memory, one caller; images per second follow."""
    if args.way in OURS:
        bundle = open_bundle(args.store / args.precision)
        # Compares its answers with a reference first, and refuses one whose answers are others.
        opened = open_runner(
            bundle,
            runtime_of(args.way, args.device),
            refuse_doubted=True,
            tf32=args.precision == "tf32" and args.device == "cuda",
            eager=True,
        )
        runner = opened.runner
        plan = getattr(runner, "plan", None)
        tell(ran=runner.description + (f", {plan}" if plan else ""))
        measure(lambda count: runner, args, (bundle.contract.preprocessing.height, bundle.contract.preprocessing.width))
        runner.close()
        return
    if args.precision not in TOLERANCE:
        raise UnavailableError(f"torch has no {args.precision} convolution for CUDA, so there is no peer")
    import torch

    from benchmarks.gpu.torch_ways import opened as opened_torch

    device = torch.device(args.device)
    prepared = opened_torch(TORCH[args.way], args.weights, args.precision, device)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    tell(ran=f"torch {torch.__version__} on {where}")
    reference = open_bundle(args.store / "fp32")
    require_same_answers(prepared, reference.onnx_path, args.precision)
    pre = reference.contract.preprocessing
    measure(prepared, args, (pre.height, pre.width))


def measure(prepared: Callable[[int], Call], args: argparse.Namespace, side: tuple[int, int]) -> None:
    """Time the call for each batch size, and tell each at once."""
    gpu = open_gpu() if args.device == "cuda" else None
    for count in args.batches:
        pixels_NHWC = np.random.default_rng(0).integers(0, 256, (count, *side, 3), np.uint8)
        call = prepared(count)
        for _ in range(3):  # the first call of a size finds its algorithms, the next ones capture it as a graph
            call(pixels_NHWC)
        reading = timed(partial(call, pixels_NHWC), count, args.seconds)
        state = None if gpu is None else gpu.read()
        for name in ("clock_mhz", "power_w", "temperature_c"):
            value = getattr(state, name, None)
            if value is not None:
                reading[name] = float(value)
        tell(cases={f"batch {count}": reading})


def timed(call: Callable[[], object], count: int, seconds: float) -> Reading:
    """Median and 99th percentile of a call of ``count`` images, and images per second.

    In this very thread: torch.compile replays its CUDA graphs in the thread that recorded them alone.
    """
    samples_ns: list[int] = []
    started_ns = time.perf_counter_ns()
    while time.perf_counter_ns() - started_ns < seconds * 1e9 or len(samples_ns) < MIN_CALLS:
        before_ns = time.perf_counter_ns()
        call()
        samples_ns.append(time.perf_counter_ns() - before_ns)
    elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
    p50, p99 = np.percentile(samples_ns, (50, 99), method="inverted_cdf") / 1e6
    return {"median_ms": float(p50), "p99_ms": float(p99), "images_per_s": count * len(samples_ns) / elapsed_s}


def require_same_answers(prepared: Callable[[int], Call], onnx: Path, precision: str) -> None:
    """ProofError unless a peer answers as our float32 engine does: nothing is timed on other work."""
    contract = open_bundle(onnx.parent).contract
    pixels_NHWC = photo_pixels(contract.preprocessing)
    expected_NK = OnnxRuntimeRunner(onnx, contract, precision="fp32", exact=True)(pixels_NHWC)
    differs = difference(prepared(len(pixels_NHWC))(pixels_NHWC), expected_NK).largest
    if not differs <= TOLERANCE[precision]:
        raise ProofError(
            f"its logits differ by {differs:.1%} of their range from {MODEL} on the CPU; it is not timed on other work"
        )
