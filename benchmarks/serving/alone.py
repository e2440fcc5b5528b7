"""Decoder and engine without a server: together they are the limit of any server on these cores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import open_photo, to_pixels
from alexnet_deploy.machine.cpu import cores


def summary(took_s: Sequence[float], per_s: float) -> dict[str, float]:
    """A rate, and the median and the 99th percentile of latencies."""
    p50, p99 = np.percentile(took_s, [50, 99]) * 1000
    return {"per_s": per_s, "p50_ms": float(p50), "p99_ms": float(p99)}


def decode_alone(contents: Sequence[bytes], pre: Preprocessing, seconds: float) -> dict[str, float]:
    """All cores for the rate; one thread, as a single client would see it, for the latency."""

    def decode(content: bytes) -> float:
        started = time.perf_counter()
        to_pixels(open_photo(content, pre), pre)
        return time.perf_counter() - started

    took: list[float] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        took += map(decode, contents)
    count, started = 0, time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        while time.perf_counter() < started + seconds / 2:
            count += sum(1 for _ in pool.map(decode, contents))
    return summary(took, count / (time.perf_counter() - started))


def engine_alone(engine: Engine, pixels_NHWC: NDArray[np.uint8], seconds: float) -> dict[str, float]:
    """The largest rate of batches 1, 8 and 32, and the latency of batch 1."""
    from alexnet_deploy.runtime.select import open_runner

    runner = open_runner(engine).runner
    rates: list[float] = []
    single: list[float] = []
    for batch in (1, 8, 32):
        given = pixels_NHWC[np.arange(batch) % len(pixels_NHWC)]
        runner(given)
        took, end = [], time.perf_counter() + seconds / 3
        while (started := time.perf_counter()) < end:
            runner(given)
            took.append(time.perf_counter() - started)
        rates.append(batch * len(took) / sum(took))
        single = single or took
    return summary(single, max(rates))
