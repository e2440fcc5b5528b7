"""Times by kernel from TensorRT's IProfiler, on the GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.profiling.layers.kernel_times import WARM_UP_CALLS, Kernel, KernelTimes, timed_calls
from alexnet_deploy.runtime.tensorrt_runner import TrtRunner

# Legend: N batch, H height, W width, C channel (RGB)

_UNKNOWN = "unknown"


def kernel_times(
    runner: TrtRunner, pixels_NHWC: NDArray[np.uint8], achieved: Sequence[LayerPrecision], *, calls: int
) -> KernelTimes:
    """Run ``calls`` calls with a profiler attached; the runner is closed then.

    TensorRT names its fused layers; ``achieved``, the proof of precision of the same plan, names their ONNX nodes and
    types. Raises UnavailableError where TensorRT reports no layer, or the GPU fails.
    """
    us_by_name: defaultdict[str, list[float]] = defaultdict(list)
    with closing(runner):
        _profile(runner, us_by_name)
        call_us = timed_calls(lambda: runner(pixels_NHWC), calls)
    if not us_by_name:
        raise UnavailableError(f"{runner.description} reports no layer times; build it again, or use another --runtime")
    nodes: defaultdict[str, list[LayerPrecision]] = defaultdict(list)
    for proof in achieved:
        nodes[proof.engine_layer].append(proof)
    kernels = (_kernel(name, nodes[name], tuple(us[WARM_UP_CALLS:])) for name, us in us_by_name.items())
    return KernelTimes(runner.description, tuple(kernels), call_us)


def _profile(runner: TrtRunner, us_by_name: dict[str, list[float]]) -> None:
    """Let every call of ``runner`` report its layers: kernel by kernel, since a CUDA graph reports none."""
    api: Any = runner._library.api

    class Profiler(api.IProfiler):  # type: ignore[misc]  # the base comes from an untyped library
        def __init__(self) -> None:
            api.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            us_by_name[layer_name].append(1000 * ms)

    # Made without TensorRT-RTX's runtime config: what it captures as a graph, no profiler sees.
    context: Any = runner._engine.create_execution_context()
    if context is None:
        raise UnavailableError(f"create_execution_context: {runner._cause()}")
    for name, pointer in ((runner.contract.input_name, runner._input), (runner.contract.output_name, runner._output)):
        if not context.set_tensor_address(name, pointer):
            raise UnavailableError(f"set_tensor_address {name}: {runner._cause()}")
    context.profiler = Profiler()
    runner._context = context
    # Whoever asks for laps gets its calls step by step, outside any graph.
    runner.lap = lambda stage: None


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
