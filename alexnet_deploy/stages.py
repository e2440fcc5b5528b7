"""Where the time of ``infer`` goes: each stage timed within the very run whose total is reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.cores import cores
from alexnet_deploy.errors import InputError
from alexnet_deploy.images import load_pixels
from alexnet_deploy.infer import BATCH, predict
from alexnet_deploy.laps import Lap, Laps, no_lap
from alexnet_deploy.latency import measure
from alexnet_deploy.runners import Runner

STAGES = ("decode", "resize", "batch", "host-to-device", "compute", "device-to-host", "top-k", "output", "waiting")
"""As an image goes through them; only a GPU has the two copies. ``waiting``: of a thread for work."""

_DECODERS = frozenset(STAGES[:3])
"""What all decoding threads do; the rest is one thread's."""

ROUNDS = 3
"""The pipeline and its two halves are run in turn so often: their medians stand beside each other."""

ENGINE_S = 0.5
"""Of the engine alone, each round."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage over all threads of a run."""

    name: str
    thread_s: float
    """Seconds that threads spent in it, together, waits for a core included: there may be more threads than cores."""
    share_percent: float
    """Of all threads' time."""
    ms_per_image: float
    images_per_s: float
    """What the threads that do it would reach if they did nothing else."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """One run over a folder, stage by stage, and beside it what its two halves do alone."""

    runner: str
    images: int
    failed: int
    batch: int
    threads: int
    """That decode, and one that computes: ``threads`` x ``total_s`` is what the stages add up to."""
    total_s: float
    images_per_s: float
    stages: tuple[Stage, ...]
    unaccounted_percent: float
    """What the stages lack of ``threads`` x ``total_s``."""
    clockless_images_per_s: float
    """The same run without a clock: the median of ``ROUNDS``."""
    decode_images_per_s: float
    """Decode, resize and batch alone on all cores, median of ``ROUNDS``."""
    engine_images_per_s: float
    """The engine alone at this batch, on pixels in memory, median of ``ROUNDS``."""
    additive_limit_images_per_s: float
    """1 / (1 / decode + 1 / engine): what two halves that share the same cores can reach at best."""
    of_limit: float
    """``clockless_images_per_s`` of that; above 1 where a GPU computes beside the decoding cores."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the field names above."""
        return asdict(self)


def profile_stages(
    runner: Runner,
    files: Sequence[Path],
    *,
    batch: int = BATCH,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> StageReport:
    """Run ``files`` through decode, resize and ``runner``, clocked once and unclocked ``ROUNDS`` times.

    Raises UsageError for a number out of range, InputError where no file can be read, and what the runner raises.
    """
    workers = cores() if workers is None else workers
    rounds, done = ROUNDS + 2, 0

    def run(lap: Lap = no_lap) -> int:
        nonlocal done
        failed = 0
        rows = predict(runner, files, batch=batch, workers=workers, lap=lap)
        for i, row in enumerate(rows, 1):
            failed += row.error is not None
            on_progress(done * len(files) + i, rounds * len(files))
        done += 1
        return failed

    if run() == len(files):  # warms up caches of files and engine, too
        raise InputError(f"{files[0]}: cannot be used, nor can any other of the {len(files)} files; see: infer")
    laps = Laps()
    failed = run(laps)
    laps.stop("waiting")
    whole, decoding, computing = [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        whole.append(len(files) / (time.perf_counter() - started))
        decoding.append(_decode_alone(files, runner.contract.preprocessing, workers))
        computing.append(measure(runner, batch=batch, duration_s=ENGINE_S).images_per_s)
    clockless, decode, engine = map(statistics.median, (whole, decoding, computing))
    limit = 1 / (1 / decode + 1 / engine)
    seconds, thread_s = laps.seconds(), laps.threads * laps.total_s
    return StageReport(
        runner=runner.description,
        images=len(files),
        failed=failed,
        batch=batch,
        threads=laps.threads,
        total_s=laps.total_s,
        images_per_s=len(files) / laps.total_s,
        stages=tuple(
            Stage(
                name,
                seconds[name],
                100 * seconds[name] / thread_s,
                1000 * seconds[name] / len(files),
                (workers if name in _DECODERS else 1) * len(files) / seconds[name],
            )
            for name in STAGES
            if seconds.get(name)
        ),
        unaccounted_percent=100 * (1 - sum(seconds.values()) / thread_s),
        clockless_images_per_s=clockless,
        decode_images_per_s=decode,
        engine_images_per_s=engine,
        additive_limit_images_per_s=limit,
        of_limit=clockless / limit,
    )


def _decode_alone(files: Sequence[Path], pre: Preprocessing, workers: int) -> float:
    """Images a second of threads that do nothing but decode, each into one buffer of its own."""

    def work(number: int) -> None:
        buffer = np.empty((pre.height, pre.width, 3), np.uint8)
        for file in files[number::workers]:
            try:
                load_pixels(file, pre, buffer)
            except InputError:
                continue  # the pipeline pays for it as well

    started = time.perf_counter()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        list(pool.map(work, range(workers)))
    return len(files) / (time.perf_counter() - started)
