"""The counters of a runtime for one engine: one entry per kernel, in the order in which they run.

A kernel is one execution step of a runtime: an ONNX node, several fused ones, or a conversion that it added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

WARM_UP_CALLS = 10
"""Calls before those that count: the first ones allocate memory and choose kernels."""
CALLS = 60
ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 8, "int4": 0.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel; types are keys of ``ELEMENT_BYTES``, or the runtime's own name if it has no such key."""

    name: str
    op: str
    """The runtime's own operator, such as ``Convolution``, ``QLinearConv``, ``Reorder``."""
    implementation: str
    """The code that ran, if the runtime reports it, such as ``brgconv_avx512_f32``, or else the operator."""
    sources: tuple[str, ...]
    """Names of ONNX nodes or tensors, with the additions of the runtime; empty for a kernel that it added."""
    precision: str
    """The type it computes in; ``int8`` for an integer convolution, whether its input is signed or not."""
    input_type: str
    weight_type: str
    output_type: str
    us: tuple[float, ...]
    """Time of each sample: one call, or the mean of several if the runtime reports only means."""


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """``call_us`` holds the same samples as each kernel's ``us``, timed on the host around the calls."""

    description: str
    """For people: runtime, version, device."""
    kernels: tuple[Kernel, ...]
    call_us: tuple[float, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know of these times."""


def timed_calls(call: Callable[[], object], calls: int, *, warm_up: int = WARM_UP_CALLS) -> tuple[float, ...]:
    """Microseconds of each of ``calls`` calls after a warm-up."""
    for _ in range(warm_up):
        call()
    spent_us = []
    for _ in range(calls):
        started_ns = time.perf_counter_ns()
        call()
        spent_us.append((time.perf_counter_ns() - started_ns) / 1e3)
    return tuple(spent_us)
