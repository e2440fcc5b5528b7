"""Times by kernel from TensorRT's IProfiler, on the GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.profiling.layers.counters.kernel_times import WARM_UP_CALLS, Kernel, KernelTimes, timed_calls
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner

# Legend: N batch, H height, W width, C channel (RGB)

_UNKNOWN = "unknown"


def kernel_times(
    runner: TensorRTRunner, pixels_NHWC: NDArray[np.uint8], achieved: Sequence[LayerPrecision], *, calls: int
) -> KernelTimes:
    """Run ``calls`` calls with a profiler attached, then close the runner.

    TensorRT names its fused layers; ``achieved``, the proof of precision of the same plan, names their ONNX nodes and
    types. Raises UnavailableError if TensorRT reports no layer, or the GPU fails.
    """
    us_by_name: defaultdict[str, list[float]] = defaultdict(list)
    with closing(runner):
        runner.report_kernels(lambda name, ms: us_by_name[name].append(1000 * ms))
        call_us = timed_calls(lambda: list(runner.steps(pixels_NHWC)), calls)
    if not us_by_name:
        raise UnavailableError(f"{runner.description} reports no layer times; build it again, or use another `runtime`")
    nodes: defaultdict[str, list[LayerPrecision]] = defaultdict(list)
    for proof in achieved:
        nodes[proof.engine_layer].append(proof)
    kernels = (_kernel(name, nodes[name], tuple(us[WARM_UP_CALLS:])) for name, us in us_by_name.items())
    return KernelTimes(runner.description, tuple(kernels), call_us)


def _kernel(name: str, proofs: Sequence[LayerPrecision], us: tuple[float, ...]) -> Kernel:
    precision = proofs[0].got if proofs else _UNKNOWN
    return Kernel(
        name=name,
        op=name.partition("(")[0],
        implementation=name,
        sources=tuple(proof.node for proof in proofs) or tuple(name.split(" + ")),
        precision=precision,
        input_type=precision,
        weight_type=precision,
        output_type=precision,
        us=us,
    )
