"""Where the time of ``infer`` goes: each stage timed within the very run whose total is reported."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.inference.predict import BATCH, predict
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.watch import watch_for
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.stage_timer import Lap, Laps, no_lap

STAGES = ("decode", "resize", "batch", "host-to-device", "compute", "device-to-host", "top-k", "output", "waiting")
"""As an image goes through them; only a GPU has the two copies. ``waiting``: of a thread for work."""

_DECODERS = frozenset(STAGES[:3])
"""What all decoding threads do; the rest is one thread's."""

ROUNDS = 3
"""The pipeline and its two halves are run in turn so often: their medians stand beside each other."""

ENGINE_S = 0.5
"""Of the engine alone, each round."""

RUN_S = 1.0
"""A run at least: a small folder goes through again and again, or starting and ending would be what is measured."""
MAX_PASSES = 1000


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
    """Files of the folder."""
    failed: int
    """Of them, that cannot be used: they cost time in every run, and count in no rate."""
    passes: int
    """How often a run goes through the files."""
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
    invalid: tuple[str, ...] = ()
    """Why the rates do not count, as ``machine_watch`` saw it."""

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

    A run takes ``RUN_S`` at least, by going through the files several times; ``on_progress`` counts files of all runs.

    Raises UsageError for a number out of range, InputError where no file can be read, and what the runner raises.
    """
    workers = cores() if workers is None else workers
    done, total = 0, len(files)

    def run(some: Sequence[Path], lap: Lap = no_lap) -> int:
        nonlocal done
        failed = 0
        for row in predict(runner, some, batch=batch, workers=workers, lap=lap):
            failed += row.error is not None
            done += 1
            on_progress(done, total)
        return failed

    started = time.perf_counter()
    failed = run(files)  # warms up caches of files and engine, too
    if failed == len(files):
        raise InputError(f"{files[0]}: cannot be used, nor can any other of the {len(files)} files; see: infer")
    passes = min(math.ceil(RUN_S / (time.perf_counter() - started)), MAX_PASSES)
    usable = passes * (len(files) - failed)
    again = [*files] * passes
    total += (ROUNDS + 1) * len(again)

    watch = watch_for(runner.description)
    before = watch.read()
    laps = Laps()
    run(again, laps)
    laps.stop("waiting")
    whole, decoding, computing = [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run(again)
        whole.append(usable / (time.perf_counter() - started))
        decoding.append(usable / _decoding_s(again, runner.contract.preprocessing, workers))
        computing.append(measure(runner, batch=batch, duration_s=ENGINE_S).images_per_s)
    clockless, decode, engine = map(statistics.median, (whole, decoding, computing))
    limit = 1 / (1 / decode + 1 / engine)
    seconds, thread_s = laps.seconds(), laps.threads * laps.total_s
    return StageReport(
        runner=runner.description,
        images=len(files),
        failed=failed,
        passes=passes,
        batch=batch,
        threads=laps.threads,
        total_s=laps.total_s,
        images_per_s=usable / laps.total_s,
        stages=tuple(
            Stage(
                name,
                seconds[name],
                100 * seconds[name] / thread_s,
                1000 * seconds[name] / usable,
                (workers if name in _DECODERS else 1) * usable / seconds[name],
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
        invalid=watch.judge([before, watch.read()]).invalid,
    )


def _decoding_s(files: Sequence[Path], pre: Preprocessing, workers: int) -> float:
    """Seconds of threads that do nothing but decode, each into one buffer of its own."""

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
    return time.perf_counter() - started
