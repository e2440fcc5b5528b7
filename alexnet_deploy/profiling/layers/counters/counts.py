"""The counters of the CPU runtimes; each loads its library only when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from alexnet_deploy.profiling.layers.counters.kernel_times import KernelTimes


def count_on_cpu(
    runtime: str,
    onnx_path: Path,
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None,
    calls: int,
    precision: str = "fp32",
) -> KernelTimes:
    """``kernel_times`` of the counters of ``runtime``, ``"openvino"`` or ``"onnxruntime"``; see there."""
    if runtime == "openvino":
        from alexnet_deploy.profiling.layers.counters import openvino as openvino_counters

        return openvino_counters.kernel_times(onnx_path, feeds, threads=threads, calls=calls)
    from alexnet_deploy.profiling.layers.counters import onnxruntime as onnxruntime_counters

    return onnxruntime_counters.kernel_times(onnx_path, feeds, threads=threads, calls=calls, precision=precision)
