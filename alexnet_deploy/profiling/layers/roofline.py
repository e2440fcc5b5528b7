"""The measured roofline of this machine: how fast it multiplies at each precision, and how fast its memory is.

Williams, Waterman, Patterson, "Roofline" (doi:10.1145/1498765.1498785): no layer is faster than its arithmetic at the
machine's peak, nor than its bytes at the machine's bandwidth. The peak is that of the runtime in question: the best
call of two kernels with hundreds of operations per byte, a matrix product and a convolution, in an ONNX model of the
precision. The bandwidth is the best of reading an array much larger than the last-level cache, and of copying one.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.profiling.costs import multiplies
from alexnet_deploy.profiling.layer_profile import Bandwidth, Peak, Roofline
from alexnet_deploy.profiling.layers.counters.counts import count_on_cpu
from alexnet_deploy.profiling.layers.counters.kernel_times import Kernel
from alexnet_deploy.profiling.layers.peak_models import PEAK_MODELS, PeakModel

PEAK_CALLS = 30
STREAM_BYTES = 512 << 20
"""Sixteen times a cache of 32 MiB: the part that stays in the cache counts for little."""
STREAM_ROUNDS = 20
DEFAULT_CACHE_BYTES = 32 << 20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def measure_roofline(runtime: str, precisions: Collection[str], threads: int | None = None) -> Roofline:
    """Measure ``runtime`` ("openvino" or "onnxruntime") at each of ``precisions``, and memory; some 2 s each.

    Each part is measured once per process, so all engines have the same limits. A precision that the runtime computes
    in another one has no peak.
    """
    peaks = (measured_peak(runtime, precision, threads) for precision in sorted(precisions))
    known = tuple(peak for peak in peaks if peak is not None)
    return Roofline(runtime, threads or cores(), known, measured_bandwidth(threads or cores()))


@functools.cache
def measured_peak(runtime: str, precision: str, threads: int | None) -> Peak | None:
    """The best of ``PEAK_MODELS``; None if the runtime computes none of them at ``precision``."""
    found = (_peak_of(model, runtime, precision, threads) for model in PEAK_MODELS)
    return max(filter(None, found), key=lambda peak: peak.gflop_per_s, default=None)


def _peak_of(model: PeakModel, runtime: str, precision: str, threads: int | None) -> Peak | None:
    with TemporaryDirectory(prefix="alexnet-deploy-") as folder:
        path = Path(folder) / "peak.onnx"
        if not model.save(path, precision):
            return None
        try:
            times = count_on_cpu(runtime, path, model.feeds(), threads=threads, calls=PEAK_CALLS)
        except InputError:  # it has no kernel for the precision
            return None
    ran = [kernel for kernel in times.kernels if multiplies(kernel.op) and kernel.precision == precision]
    if not ran:
        return None
    best: Kernel = min(ran, key=lambda kernel: min(kernel.us))
    return Peak(precision, model.flops / max(min(best.us), 1.0) / 1e3, best.implementation)


@functools.cache
def measured_bandwidth(threads: int) -> Bandwidth:
    """Streams of several threads, each through its own array."""
    reported = cache_bytes()
    size = reported or DEFAULT_CACHE_BYTES
    with ThreadPoolExecutor(threads) as pool:
        memory = _stream(pool, threads, max(STREAM_BYTES, 8 * size), passes=1)
        # A quarter of the cache, since other cores share it; many passes, since one is over before the threads meet.
        small = size // 4
        cache = _stream(pool, threads, small, passes=max(1, STREAM_BYTES // small // 2))
    return Bandwidth(memory, max(cache, memory), size, reported is not None)


def _stream(pool: ThreadPoolExecutor, threads: int, nbytes: int, *, passes: int) -> float:
    """GB/s of the best round over ``nbytes`` in all: reading, or copying one half to the other (both count)."""
    # Written once: memory that was never written is one page of zeros.
    arrays = [np.ones(nbytes // threads // 4, np.float32) for _ in range(threads)]
    total = passes * sum(array.nbytes for array in arrays)
    best = 0.0
    for work in (_read, _copy):
        for _ in range(STREAM_ROUNDS):
            started_ns = time.perf_counter_ns()
            list(pool.map(work, arrays, [passes] * threads))
            best = max(best, total / (time.perf_counter_ns() - started_ns))
    return best


def _read(array: NDArray[np.float32], passes: int) -> None:
    for _ in range(passes):
        np.maximum.reduce(array)


def _copy(array: NDArray[np.float32], passes: int) -> None:
    half = len(array) // 2
    for _ in range(passes):
        np.copyto(array[:half], array[-half:])


def cache_bytes() -> int | None:
    """Size of the largest cache of the first core; None if the system does not report it."""
    try:
        sizes = [(index / "size").read_text().strip() for index in _CACHES.glob("index*")]
        return max(int(text.removesuffix("K")) for text in sizes) << 10
    except (OSError, ValueError):
        return None
