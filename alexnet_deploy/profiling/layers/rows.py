"""One row per layer: its time, its work, and the limits that the roofline sets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from alexnet_deploy.profiling.costs import multiplies
from alexnet_deploy.profiling.layer_profile import LayerRow, Roofline
from alexnet_deploy.profiling.layers.counters.kernel_times import ELEMENT_BYTES
from alexnet_deploy.profiling.layers.grouping import LayerKernels


def row_of(group: LayerKernels, whole_us: float) -> LayerRow:
    """The row of ``group``, without limits; ``whole_us`` is the time of the whole call."""
    median_us = statistics.median(group.us)
    moved = group.moved_bytes(ELEMENT_BYTES)
    per_us = 1 / median_us if median_us else 0.0
    return LayerRow(
        layer=group.layer,
        overhead=group.overhead,
        op=group.op,
        fused=group.fused,
        next_layer=group.next_layer,
        precision=group.main.precision,
        kernel=group.main.implementation,
        median_us=median_us,
        share_percent=100 * median_us / whole_us,
        flops=group.flops,
        moved_bytes=moved,
        flops_per_byte=group.flops / moved if moved and group.flops else None,
        gflop_per_s=group.flops * per_us / 1e3 if group.flops and median_us else None,
        gb_per_s=moved * per_us / 1e3 if moved is not None and median_us else None,
    )


def with_limits(row: LayerRow, roofline: Roofline) -> LayerRow:
    """``row`` with the limits of ``roofline``; unchanged if it sets none."""
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


def notes_on(rows: Sequence[LayerRow], roofline: Roofline | None) -> list[str]:
    """A line for each thing in the table that needs an explanation."""
    untraced = [row.layer for row in rows if row.overhead and multiplies(row.op)]
    notes = [f"not traced to a layer, and shown as conversions: {', '.join(untraced)}"] if untraced else []
    if roofline is None:
        return [*notes, "no roofline: it is measured on CPUs only"]
    notes += [
        f"no peak for {precision}: {roofline.runtime} does not compute the models that measure it in {precision} here"
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
            f"faster than memory allows, so read from the cache: {_names(cached)}, at up to {fastest:.0f} GB/s "
            f"(memory {memory.memory_gb_per_s:.0f}, cache {memory.cache_gb_per_s:.0f}); one call moves "
            f"{total / 2**20:.1f} MiB, which {fits} the cache of {memory.cache_bytes / 2**20:.0f} MiB"
        )
    faster = [row for row in above if row.bound == "compute"]
    if faster:
        notes.append(
            f"faster than the kernels that measured the peak: {_names(faster)}; a few percent are chance; if it is "
            "more, the machine was busy during the peak measurement: run again on an idle machine"
        )
    return notes


def _names(rows: Sequence[LayerRow]) -> str:
    names = [row.layer for row in rows if not row.overhead]
    conversions = len(rows) - len(names)
    return ", ".join(names + ([f"{conversions} conversion{'s'[: conversions > 1]}"] if conversions else []))
