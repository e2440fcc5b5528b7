"""Where the time of one call goes: a row per layer under its PyTorch name, with the limits of the machine.

A runtime fuses nodes into kernels, adds conversions of its own, and leaves some nodes out. The time of a kernel goes to
the module of the node that multiplies in it, or else of its first node; a node without its own kernel counts as fused
into the one that computes its input. A kernel that only changes types or the order of numbers in memory is not a layer:
it is a separate row, marked as overhead.
"""

from __future__ import annotations

import statistics
from contextlib import closing
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, load_manifest
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.errors import DeployError, UnavailableError, require_positive
from alexnet_deploy.machine.gpu import has_nvidia_gpu
from alexnet_deploy.machine.watch import watch_for
from alexnet_deploy.profiling.costs import Costs
from alexnet_deploy.profiling.engine import check_batch_sizes
from alexnet_deploy.profiling.latency import random_pixels
from alexnet_deploy.profiling.layer_profile import LayerProfile
from alexnet_deploy.profiling.layers.counters.counts import count_on_cpu
from alexnet_deploy.profiling.layers.counters.kernel_times import CALLS, KernelTimes, timed_calls
from alexnet_deploy.profiling.layers.grouping import group_kernels
from alexnet_deploy.profiling.layers.roofline import measure_roofline
from alexnet_deploy.profiling.layers.rows import notes_on, row_of, with_limits
from alexnet_deploy.profiling.settings import LayerRuntime
from alexnet_deploy.runtime.select import PassedOver, open_runner, require_cuda_kernels

ON_GPU = ("tensorrt", "onnxruntime-cuda")


def profile_layers(
    engine: Engine,
    runtime: LayerRuntime | str = "auto",
    batch: int = 1,
    threads: int | None = None,
    *,
    calls: int = CALLS,
) -> LayerProfile:
    """Time each layer of ``engine`` on random pixels, and compare it with the machine's roofline.

    The roofline is measured on CPUs only. Raises UsageError for a parameter out of range, UnavailableError for a
    runtime that does not report layers, InputError if the ONNX cannot be read or the runtime refuses it.
    """
    require_positive(batch=batch, threads=threads)
    check_batch_sizes(engine, [batch], "batch")
    runtime, passed_over = _choose(engine, runtime)
    with held(engine):
        engine = engine.hashed()
    with held(engine):  # which is read several times
        costs = Costs(engine.onnx_path, batch)
        with closing(open_runner(engine, runtime, threads=threads).runner) as runner:
            pixels_NHWC = random_pixels(runner, batch)
            watch = watch_for(runner.device)
        before = watch.read()
        times = _kernel_times(engine, runtime, pixels_NHWC, threads, calls)
        with closing(open_runner(engine, runtime, threads=threads).runner) as runner:
            uncounted_us = statistics.median(timed_calls(lambda: runner(pixels_NHWC), calls))
    whole_us = statistics.median(times.call_us)
    rows = tuple(row_of(group, whole_us) for group in group_kernels(times, costs))
    roofline = None
    if runtime not in ON_GPU:
        roofline = measure_roofline(runtime, {row.precision for row in rows if row.flops}, threads)
        rows = tuple(with_limits(row, roofline) for row in rows)
    sum_us = sum(row.median_us for row in rows)
    return LayerProfile(
        engine=engine.name,
        precision=engine.precision,
        runtime=runtime,
        runner=times.description,
        batch=batch,
        threads=threads,
        calls=calls,
        whole_us=whole_us,
        sum_us=sum_us,
        remainder_us=whole_us - sum_us,
        uncounted_us=uncounted_us,
        rows=rows,
        roofline=roofline,
        notes=(*notes_on(rows, roofline), *times.notes),
        invalid=watch.judge([before, watch.read()]).invalid,
        passed_over=passed_over,
        unused_gpu=bool(passed_over) and runtime not in ON_GPU and has_nvidia_gpu(),
    )


def _choose(engine: Engine, runtime: str) -> tuple[str, tuple[PassedOver, ...]]:
    """The runtime to count with, and the reasons against others; ``auto`` opens each candidate once."""
    if runtime != "auto":
        return runtime, ()
    passed_over: list[PassedOver] = []
    for name in get_args(LayerRuntime)[1:]:
        try:
            if name == "onnxruntime-cuda":
                require_cuda_kernels(engine)
            open_runner(engine, name).runner.close()
        except DeployError as exc:
            # Nobody expects TensorRT of an engine without plans, nor CUDA of a machine without a GPU.
            expected = {"tensorrt": bool(engine.plans), "onnxruntime-cuda": has_nvidia_gpu()}
            if expected.get(name, True):
                passed_over.append(PassedOver(name, str(exc)))
        else:
            return name, tuple(passed_over)
    reasons = "; ".join(map(str, passed_over))
    raise UnavailableError(f"{engine.name}: no runtime on this machine can time its layers ({reasons})")


def _kernel_times(
    engine: Engine, runtime: str, pixels_NHWC: NDArray[np.uint8], threads: int | None, calls: int
) -> KernelTimes:
    if runtime == "tensorrt":
        from alexnet_deploy.profiling.layers.counters import tensorrt as tensorrt_counters
        from alexnet_deploy.runtime.tensorrt.plans import open_plan

        runner = open_plan(engine)
        achieved = load_manifest(engine.onnx_path.parent)[0].achieved.get(runner.plan or "", ())
        return tensorrt_counters.kernel_times(runner, pixels_NHWC, achieved, calls=calls)
    if runtime == "onnxruntime-cuda":
        from alexnet_deploy.profiling.layers.counters import onnxruntime_cuda as onnxruntime_cuda_counters

        return onnxruntime_cuda_counters.kernel_times(
            engine.onnx_path, engine.contract.input_name, pixels_NHWC.shape, calls=calls, precision=engine.precision
        )
    feeds = {engine.contract.input_name: pixels_NHWC}
    return count_on_cpu(runtime, engine.onnx_path, feeds, threads=threads, calls=calls, precision=engine.precision)
