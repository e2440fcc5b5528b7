"""Where the time of one call goes: a row a layer under its PyTorch name, beside what the machine could do.

A runtime fuses nodes into kernels, adds conversions of its own, and leaves some nodes out. A kernel's time goes to the
module of the node that multiplies in it, else of its first node; a node without a kernel of its own counts as fused
into the one that makes its input. What only changes types or the order of numbers in memory is no layer: it is a row
of its own, marked as overhead.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, load_manifest
from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.machine.watch import watch_for
from alexnet_deploy.profiling.engine import refuse_batches
from alexnet_deploy.profiling.latency import random_pixels
from alexnet_deploy.profiling.layers.kernel_times import CALLS, ELEMENT_BYTES, KernelTimes, timed_calls
from alexnet_deploy.profiling.layers.kernels import Group, group_kernels
from alexnet_deploy.profiling.layers.roofline import Roofline, measure_roofline
from alexnet_deploy.runtime.select import open_runner


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer, or one conversion (``overhead``). Bytes are those of one call, at the element sizes that were used.

    None: nothing to tell, for want of arithmetic or of a roof at that precision. ``limit_us`` is the roofline's: the
    longer of ``compute_limit_us`` and ``memory_limit_us``; ``bound`` names that one.
    """

    layer: str
    overhead: bool
    op: str
    """ONNX operators; for overhead the runtime's own."""
    fused: tuple[str, ...]
    """Other layers that are computed within, at no time of their own."""
    next_layer: str | None
    """Of overhead: the layer that reads what it gives."""
    precision: str
    kernel: str
    """The code that ran, as the runtime calls it."""
    median_us: float
    share_percent: float
    """Of the whole call."""
    flops: int
    moved_bytes: int | None
    flops_per_byte: float | None = None
    gflop_per_s: float | None = None
    gb_per_s: float | None = None
    compute_limit_us: float | None = None
    memory_limit_us: float | None = None
    limit_us: float | None = None
    of_limit_percent: float | None = None
    """100: at the roof. Above: its bytes came from the cache, which is faster than the memory of the roof."""
    bound: Literal["compute", "bandwidth"] | None = None


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """Time by layer of one engine. Medians over ``calls`` calls with counters on, of which ``whole_us`` is one call.

    OpenVINO tells means of ten calls alone; there they are medians over such means.
    """

    engine: str
    precision: str
    runtime: str
    runner: str
    batch: int
    threads: int | None
    calls: int
    whole_us: float
    sum_us: float
    """Of the rows."""
    remainder_us: float
    """What no row accounts for: the calls' own cost, copies, waiting between kernels, and what disturbed the calls."""
    uncounted_us: float
    """A call without counters, of the same engine right after."""
    rows: tuple[LayerRow, ...]
    roofline: Roofline | None
    notes: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    """Why the times do not count, as ``machine_watch`` saw it."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, names with units."""
        return asdict(self)


def profile_layers(
    engine: Engine,
    runtime: str = "auto",
    batch: int = 1,
    threads: int | None = None,
    *,
    calls: int = CALLS,
) -> LayerProfile:
    """Time each layer of ``engine`` on random pixels, and judge it by the machine's roofline.

    The roofline is measured on CPUs only. Raises UsageError for a flag out of range, UnavailableError for a runtime
    that cannot tell, InputError where the ONNX cannot be read or the runtime refuses it.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch}: takes 1 or more")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: takes 1 or more")
    refuse_batches(engine, [batch])
    runtime, passed_over = _choose(engine, runtime)
    from alexnet_deploy.profiling.layers.costs import Costs

    costs = Costs(engine.onnx_path, batch)
    with closing(open_runner(engine, runtime, threads=threads).runner) as runner:
        pixels_NHWC = random_pixels(runner, batch)
        watch = watch_for(runner.description)
    before = watch.read()
    times = COUNTERS[runtime](engine, pixels_NHWC, threads, calls)
    with closing(open_runner(engine, runtime, threads=threads).runner) as runner:
        uncounted_us = statistics.median(timed_calls(lambda: runner(pixels_NHWC), calls))
    whole_us = statistics.median(times.call_us)
    rows = tuple(_row(group, whole_us) for group in group_kernels(times, costs))
    roofline = None
    if runtime != "tensorrt":
        roofline = measure_roofline(runtime, {row.precision for row in rows if row.flops}, threads)
        rows = tuple(_judged(row, roofline) for row in rows)
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
        notes=(*passed_over, *_notes(rows, roofline)),
        invalid=watch.judge([before, watch.read()]).invalid,
    )


def _row(group: Group, whole_us: float) -> LayerRow:
    median_us = statistics.median(group.us)
    moved = group.moved_bytes(ELEMENT_BYTES)
    per_us = 1 / median_us if median_us else 0.0
    return LayerRow(
        layer=group.layer,
        overhead=group.overhead,
        op=group.op,
        fused=group.fused,
        next_layer=group.next_layer,
        precision=group.precision,
        kernel=group.implementation,
        median_us=median_us,
        share_percent=100 * median_us / whole_us,
        flops=group.flops,
        moved_bytes=moved,
        flops_per_byte=group.flops / moved if moved and group.flops else None,
        gflop_per_s=group.flops * per_us / 1e3 if group.flops and median_us else None,
        gb_per_s=moved * per_us / 1e3 if moved is not None and median_us else None,
    )


def _judged(row: LayerRow, roofline: Roofline) -> LayerRow:
    """``row`` with its limits."""
    limits = None if row.moved_bytes is None else roofline.limit_us(row.flops, row.moved_bytes, row.precision)
    if limits is None:
        return row
    limit_us = max(limits)
    return replace(
        row,
        compute_limit_us=limits[0] if row.flops else None,
        memory_limit_us=limits[1],
        limit_us=limit_us,
        of_limit_percent=100 * limit_us / row.median_us if row.median_us else None,
        bound="compute" if limits[0] > limits[1] else "bandwidth",
    )


def _notes(rows: Sequence[LayerRow], roofline: Roofline | None) -> list[str]:
    """A line for everything in the table that would puzzle its reader."""
    from alexnet_deploy.profiling.layers.costs import multiplies

    untraced = [row.layer for row in rows if row.overhead and multiplies(row.op)]
    notes = [f"not traced to a layer, and shown as conversions: {', '.join(untraced)}"] if untraced else []
    if roofline is None:
        return [*notes, "no roofline: it is measured on CPUs only"]
    notes += [
        f"no roof for {precision}: {roofline.runtime} computes nothing else in it here"
        for precision in sorted({row.precision for row in rows if row.flops and roofline.peak(row.precision) is None})
    ]
    memory = roofline.bandwidth
    above = [row for row in rows if (row.of_limit_percent or 0) > 100]
    cached = [row for row in above if row.bound == "bandwidth"]
    if cached:
        total = sum(row.moved_bytes or 0 for row in rows)
        fastest = max(row.gb_per_s or 0 for row in cached)
        fits = "fits into" if total <= memory.cache_bytes else "is more than"
        notes.append(
            f"above the roof of memory, so served from the cache: {_names(cached)}, at up to {fastest:.0f} GB/s where "
            f"memory gives {memory.memory_gb_per_s:.0f} and the cache {memory.cache_gb_per_s:.0f}; all that a call "
            f"moves, {total / 2**20:.1f} MiB, {fits} the cache of {memory.cache_bytes / 2**20:.0f} MiB"
        )
    faster = [row for row in above if row.bound == "compute"]
    if faster:
        notes.append(
            f"faster than the kernels that the peak was measured with: {_names(faster)}; a few percent are chance, "
            "more of it is a machine that was busier then: run it again at rest"
        )
    return notes


def _names(rows: Sequence[LayerRow]) -> str:
    names = [row.layer for row in rows if not row.overhead]
    conversions = len(rows) - len(names)
    return ", ".join(names + ([f"{conversions} conversion{'s'[: conversions > 1]}"] if conversions else []))


def _choose(engine: Engine, runtime: str) -> tuple[str, list[str]]:
    """The runtime to count with, and why ``auto`` passed others over; each candidate is opened once to know."""
    if runtime == "onnxruntime-cuda":
        raise UnavailableError(
            "--runtime onnxruntime-cuda: its counters time the launch of a kernel, not the kernel; use tensorrt"
        )
    if runtime != "auto":
        return runtime, []
    passed_over = []
    for name in COUNTERS:
        try:
            open_runner(engine, name).runner.close()
        except DeployError as exc:
            if name != "tensorrt" or engine.plans:
                passed_over.append(f"passed over {name}: {exc}")
        else:
            return name, passed_over
    raise UnavailableError(f"{engine.name}: nothing here can time its layers ({'; '.join(passed_over)})")


def _tensorrt(engine: Engine, pixels_NHWC: NDArray[np.uint8], threads: int | None, calls: int) -> KernelTimes:
    from alexnet_deploy.profiling.layers import tensorrt_counters
    from alexnet_deploy.runtime import tensorrt_runner

    plan = next(plan for plan, _ in engine.plans if tensorrt_runner.why_not(plan) is None)
    achieved = load_manifest(engine.onnx_path.parent)[0].achieved.get(plan.file, ())
    return tensorrt_counters.kernel_times(tensorrt_runner.open_plan(engine), pixels_NHWC, achieved, calls=calls)


def _openvino(engine: Engine, pixels_NHWC: NDArray[np.uint8], threads: int | None, calls: int) -> KernelTimes:
    from alexnet_deploy.profiling.layers import openvino_counters

    feeds = {engine.contract.input_name: pixels_NHWC}
    return openvino_counters.kernel_times(engine.onnx_path, feeds, threads=threads, calls=calls)


def _onnxruntime(engine: Engine, pixels_NHWC: NDArray[np.uint8], threads: int | None, calls: int) -> KernelTimes:
    from alexnet_deploy.profiling.layers import onnxruntime_counters

    feeds = {engine.contract.input_name: pixels_NHWC}
    return onnxruntime_counters.kernel_times(
        engine.onnx_path, feeds, threads=threads, calls=calls, precision=engine.precision
    )


COUNTERS: dict[str, Callable[[Engine, NDArray[np.uint8], int | None, int], KernelTimes]] = {
    "tensorrt": _tensorrt,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
"""In the order in which ``auto`` tries them."""
