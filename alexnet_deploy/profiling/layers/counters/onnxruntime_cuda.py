"""Times by kernel of ONNX Runtime's CUDA provider, whose profile times the launch of a kernel and not the kernel.

So the calls run in a process of their own where CUDA waits for each kernel before its launch returns. A row then is
launch and kernel together, and the rows add up to more than a call without counters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_deploy.profiling.isolated import IsolatedProcess
from alexnet_deploy.profiling.layers.counters.kernel_times import KernelTimes
from alexnet_deploy.profiling.layers.counters.onnxruntime import profiled_times
from alexnet_deploy.runtime.onnxruntime.cuda import open_on_cuda

NOTE = "each kernel was waited for: its row includes its launch, and the rows add up to more than a call"
_WAIT = {"CUDA_LAUNCH_BLOCKING": "1"}
"""CUDA reads it when the process first uses the GPU."""


def kernel_times(
    onnx_path: Path, input_name: str, pixels_shape: tuple[int, ...], *, calls: int, precision: str
) -> KernelTimes:
    """``calls`` calls with random pixels ``[N, H, W, 3]``, with the options of ``open_cuda_runner``.

    Raises UnavailableError if CUDA does not start or its profile cannot be read, InputError if ONNX Runtime refuses
    the model.
    """
    with IsolatedProcess(onnx_path.name, environment=_WAIT) as process:
        return process.call(times_here, onnx_path, input_name, pixels_shape, calls, precision)


def times_here(
    onnx_path: Path, input_name: str, pixels_shape: tuple[int, ...], calls: int, precision: str
) -> KernelTimes:
    """``kernel_times`` in this process, which must wait for each kernel."""
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, pixels_shape, np.uint8)
    times = profiled_times(
        onnx_path,
        {input_name: pixels_NHWC},
        # A graph would be one kernel.
        lambda new_options: open_on_cuda(onnx_path, new_options, precision, graphs=False).session,
        calls=calls,
        precision=precision,
        on="CUDA",
    )
    return replace(times, notes=(NOTE,))
