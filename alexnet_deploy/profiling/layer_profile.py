"""The results of profiling by layer: types alone, so reading them from a file needs no ONNX.

The package ``layers`` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet_deploy.runtime.select import PassedOver


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest rate of arithmetic measured at one precision; ``kernel`` is the code that reached it."""

    precision: str
    gflop_per_s: float
    kernel: str


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Rates of reading and writing together: in memory, and in an array that fits the last-level cache."""

    memory_gb_per_s: float
    cache_gb_per_s: float
    cache_bytes: int
    cache_told: bool
    """Whether the system reports the size of its cache; else 32 MiB is assumed."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The limits of one runtime on one machine with ``threads`` threads."""

    runtime: str
    threads: int
    peaks: tuple[Peak, ...]
    bandwidth: Bandwidth

    def peak(self, precision: str) -> Peak | None:
        """The peak at ``precision``; None if no model computed in it."""
        return next((peak for peak in self.peaks if peak.precision == precision), None)

    def limit_us(self, flops: int, moved_bytes: int, precision: str) -> tuple[float, float] | None:
        """The least time for the arithmetic, and the least for the bytes from memory.

        None if there is arithmetic but no peak for it.
        """
        peak = self.peak(precision)
        if flops and peak is None:
            return None
        compute_us = flops / peak.gflop_per_s / 1e3 if flops and peak else 0.0
        return compute_us, moved_bytes / self.bandwidth.memory_gb_per_s / 1e3


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer, or one conversion (``overhead``). Bytes are those of one call, at the element sizes that were used.

    None: no arithmetic, or no peak at that precision. ``limit_us`` is the roofline's: the longer of
    ``compute_limit_us`` and ``memory_limit_us``; ``bound`` names that one.
    """

    layer: str
    overhead: bool
    op: str
    """ONNX operators; for overhead the operators of the runtime."""
    fused: tuple[str, ...]
    """Other layers computed in the same kernel, without a time of their own."""
    next_layer: str | None
    """For overhead: the layer that reads its output."""
    precision: str
    kernel: str
    """The runtime's name of the code that ran."""
    median_us: float
    share_percent: float
    """Share of the whole call."""
    flops: int
    moved_bytes: int | None
    flops_per_byte: float | None = None
    gflop_per_s: float | None = None
    gb_per_s: float | None = None
    compute_limit_us: float | None = None
    memory_limit_us: float | None = None
    limit_us: float | None = None
    of_limit_percent: float | None = None
    """100: at the limit. Above: its bytes came from the cache, which is faster than memory."""
    bound: Literal["compute", "bandwidth"] | None = None


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """Time by layer of one engine. Medians over ``calls`` calls with counters on; ``whole_us`` is that of one call.

    OpenVINO reports only means of ten calls; there they are medians of such means.
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
    """Sum of the rows."""
    remainder_us: float
    """The rest of the call: the cost of the call itself, copies, waits between kernels, and disturbances."""
    uncounted_us: float
    """Time of a call without counters, of the same engine right afterwards."""
    rows: tuple[LayerRow, ...]
    roofline: Roofline | None
    notes: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    """The reasons that the times do not count, from ``machine.watch``."""
    passed_over: tuple[PassedOver, ...] = ()
    unused_gpu: bool = False
    """As of ``open_runner``."""
