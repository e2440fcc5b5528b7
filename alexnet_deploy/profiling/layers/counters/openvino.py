"""Times by kernel, from OpenVINO's performance counters and the graph that it executes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.profiling.layers.counters.kernel_times import Kernel, KernelTimes, timed_calls
from alexnet_deploy.runtime.openvino_runner import DESCRIPTION, compiled_model, reason

_TYPES = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64",
    "i4": "int4",
}  # fmt: skip
_FLOATS = ("fp32", "fp16", "bf16")
_MULTIPLIES = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_NO_KERNELS = ("Parameter", "Result", "Constant")
_SAMPLE_CALLS = 10
_WARM_UP_CALLS = 5

Counters = list[float]
"""Microseconds per kernel, whether it runs or not, in the order of ``profiling_info``: names differ between two
compilations, the order does not."""


def kernel_times(onnx_path: Path, feeds: Mapping[str, NDArray[Any]], *, threads: int | None, calls: int) -> KernelTimes:
    """Run at least ``calls`` calls with the counters on, on the model as ``OpenVinoRunner`` runs it.

    The counters hold the mean over all calls since the model was compiled, in whole microseconds (2026.4): a slow call
    stays in them. The model is therefore compiled again for every ten calls, and their mean is one sample, to 1 us.
    Raises InputError if OpenVINO refuses the model.
    """
    samples: list[Counters] = []
    call_us: list[float] = []
    try:
        for _ in range(math.ceil(calls / _SAMPLE_CALLS)):
            compiled = compiled_model(onnx_path, threads=threads, counters=True)
            request = compiled.create_infer_request()
            means, spent_us = take_sample(request, feeds)
            samples.append(means)
            call_us.append(spent_us)
    except RuntimeError as exc:
        raise InputError(f"{onnx_path}: OpenVINO refuses it ({reason(exc)}); try `runtime` onnxruntime") from exc
    graph = {op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ordered_ops()}
    # The status of an info is "not run" below a microsecond, so it is not used; what is fused is not in the graph.
    kernels = (
        _kernel(graph[info.node_name], us)
        for info, us in zip(request.profiling_info, zip(*samples, strict=True), strict=True)
        if info.node_name in graph and info.node_type not in _NO_KERNELS
    )
    return KernelTimes(DESCRIPTION, tuple(kernels), tuple(call_us))


def take_sample(request: Any, feeds: Mapping[str, NDArray[Any]]) -> tuple[Counters, float]:
    """Microseconds of each kernel and of a call: means over ``_SAMPLE_CALLS`` calls after a warm-up."""

    def infer() -> None:
        request.infer(dict(feeds), share_inputs=True)

    timed_calls(infer, _WARM_UP_CALLS, warm_up=0)
    before = _counters(request)
    call_us = timed_calls(infer, _SAMPLE_CALLS, warm_up=0)
    total = _WARM_UP_CALLS + _SAMPLE_CALLS
    means = [
        max(total * mean - _WARM_UP_CALLS * early, 0.0) / _SAMPLE_CALLS
        for mean, early in zip(_counters(request), before, strict=True)
    ]
    return means, sum(call_us) / len(call_us)


def _counters(request: Any) -> Counters:
    return [info.real_time / timedelta(microseconds=1) for info in request.profiling_info]


def _kernel(op: Any, us: tuple[float, ...]) -> Kernel:
    info = {key: str(getattr(value, "value", value)) for key, value in op.get_rt_info().items()}
    types = [_type(port.get_element_type().get_type_name()) for port in op.inputs()]
    precision = _type(info["runtimePrecision"])
    if info["layerType"] in _MULTIPLIES and precision == "uint8":
        precision = "int8"
    if info["layerType"] in _MULTIPLIES and types and types[0] in _FLOATS:
        precision = types[0]  # it reports the type of a weight that alone is quantised
    return Kernel(
        name=op.get_friendly_name(),
        op=info["layerType"],
        implementation=info["primitiveType"],
        sources=tuple(filter(None, info["originalLayersNames"].split(","))),
        precision=precision,
        input_type=types[0] if types else precision,
        weight_type=types[1] if len(types) > 1 else precision,
        output_type=_type(info["outputPrecisions"].split(",")[0]),
        us=us,
    )


def _type(name: str) -> str:
    return _TYPES.get(name, name)
