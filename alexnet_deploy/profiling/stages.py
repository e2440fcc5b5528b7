"""Where the time of ``infer`` goes: each stage timed within the run whose total is reported."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, require_positive
from alexnet_deploy.images.decode import open_photo, resize
from alexnet_deploy.inference.batches import read_batches, require_batch
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import BATCH, Prediction
from alexnet_deploy.inference.rows import predictions_of
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.watch import watch_for
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB), K class

STAGES = ("decode", "resize", "batch", "host-to-device", "compute", "device-to-host", "top-k", "output", "waiting")
"""In the order in which an image passes them; only a GPU has the two copies. ``waiting``: a thread waits for work."""

_DECODERS = frozenset(STAGES[:3])
"""Stages of all decoding threads; one thread does the rest."""

ROUNDS = 3
"""Number of times that the pipeline and its two halves run in turn; their medians are compared."""

ENGINE_S = 0.5
"""Seconds of the engine alone, per round."""

RUN_S = 1.0
"""Minimum time of a run. A small folder is repeated; otherwise start and end would be measured."""
MAX_PASSES = 1000

TOP_K = 5
"""Answers per image, as in ``infer``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage over all threads of a run."""

    name: str
    thread_s: float
    """Seconds of all threads together, including waits for a core: there may be more threads than cores."""
    share_percent: float
    """Share of the time of all threads."""
    ms_per_image: float
    images_per_s: float
    """The rate of its threads if they did nothing else."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """One run over a folder, stage by stage, and the rates of its two halves alone."""

    runner: str
    images: int
    """Files of the folder."""
    failed: int
    """Files that cannot be used: they cost time in every run, and count in no rate."""
    passes: int
    """How many times a run goes through the files."""
    batch: int
    threads: int
    """Decoding threads, and one that computes; the stages add up to ``threads`` x ``total_s``."""
    total_s: float
    images_per_s: float
    stages: tuple[Stage, ...]
    unaccounted_percent: float
    """The part of ``threads`` x ``total_s`` that belongs to no stage."""
    clockless_images_per_s: float
    """The same run without the timer, median of ``ROUNDS``."""
    decode_images_per_s: float
    """Decode, resize and batch alone on all cores, median of ``ROUNDS``."""
    engine_images_per_s: float
    """The engine alone at this batch, on pixels in memory, median of ``ROUNDS``."""
    additive_limit_images_per_s: float
    """1 / (1 / decode + 1 / engine): the limit of two halves on the same cores."""
    of_limit: float
    """``clockless_images_per_s`` divided by that limit; above 1 if a GPU computes besides the decoding cores."""
    invalid: tuple[str, ...] = ()
    """The reasons that the rates do not count, from ``machine.watch``."""


class StageTimer:
    """Adds up the stages of all threads, from its construction on.

    A thread calls ``end`` when a stage has ended; the time since its last call belongs to that stage. So after
    ``stop`` the stages add up to ``threads`` x ``total_s``.
    """

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        # Per thread, and each thread writes only its own keys: no lock.
        self._last_ns: dict[int, int] = {}
        self._stages_ns: dict[int, Counter[str]] = {}
        self.total_s = 0.0

    def end(self, stage: str) -> None:
        """Add the time since this thread's last call, or since the start, to ``stage``."""
        self._end(threading.get_ident(), stage, time.perf_counter_ns())

    def stop(self, rest: str) -> None:
        """End the measurement: the remaining time of each thread is ``rest``."""
        now_ns = time.perf_counter_ns()
        self.total_s = (now_ns - self._started_ns) / 1e9
        for thread in self._stages_ns:
            self._end(thread, rest, now_ns)

    def _end(self, thread: int, stage: str, now_ns: int) -> None:
        stages_ns = self._stages_ns.setdefault(thread, Counter())
        stages_ns[stage] += max(now_ns - self._last_ns.get(thread, self._started_ns), 0)
        self._last_ns[thread] = now_ns

    @property
    def threads(self) -> int:
        """Number of threads that ended a stage."""
        return len(self._stages_ns)

    def seconds(self) -> dict[str, float]:
        """Time by stage, over all threads."""
        return {stage: ns / 1e9 for stage, ns in sum(self._stages_ns.values(), Counter()).items()}


def profile_stages(
    runner: Runner,
    files: Sequence[Path],
    *,
    batch: int = BATCH,
    workers: int | None = None,
    on_progress: Progress = no_progress,
) -> StageReport:
    """Run ``files`` through decode, resize and ``runner``, timed once and untimed ``ROUNDS`` times.

    A run lasts at least ``RUN_S``, if necessary with several passes over the files; ``on_progress`` counts files of
    all runs. Raises UsageError for a number out of range, InputError if no file can be read, and the errors of the
    runner.
    """
    require_positive(workers=workers)
    require_batch(batch, runner.contract.preprocessing)
    workers = cores() if workers is None else workers
    done, total = 0, len(files)

    def counted(predictions: Iterable[Prediction]) -> int:
        """Use them as a caller does: count those that failed."""
        nonlocal done
        failed = 0
        for row in predictions:
            failed += row.error is not None
            done += 1
            on_progress("images", done, total)
        return failed

    started = time.perf_counter()
    failed = counted(predict(runner, files, batch=batch, workers=workers))  # also warms up caches of files and engine
    if failed == len(files):
        raise InputError(f"{files[0]}: cannot be used, nor can any other of the {len(files)} files; see: infer")
    passes = min(math.ceil(RUN_S / (time.perf_counter() - started)), MAX_PASSES)
    usable = passes * (len(files) - failed)
    again = [*files] * passes
    total += (ROUNDS + 1) * len(again)

    watch = watch_for(runner.device)
    before = watch.read()
    timer = StageTimer()
    for predictions in _timed(runner, again, timer, batch, workers):
        counted(predictions)
        timer.end("output")
    timer.stop("waiting")
    whole, decoding, computing = [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        counted(predict(runner, again, batch=batch, workers=workers))
        computed = time.perf_counter()
        deque(read_batches(again, runner.contract.preprocessing, batch=batch, workers=workers), maxlen=0)
        decoded = time.perf_counter()
        whole.append(usable / (computed - started))
        decoding.append(usable / (decoded - computed))
        computing.append(measure(runner, batch=batch, duration_s=ENGINE_S).images_per_s)
    clockless, decode, engine = map(statistics.median, (whole, decoding, computing))
    limit = 1 / (1 / decode + 1 / engine)
    seconds, thread_s = timer.seconds(), timer.threads * timer.total_s
    return StageReport(
        runner=runner.description,
        images=len(files),
        failed=failed,
        passes=passes,
        batch=batch,
        threads=timer.threads,
        total_s=timer.total_s,
        images_per_s=usable / timer.total_s,
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


def _timed(
    runner: Runner, files: Sequence[Path], timer: StageTimer, batch: int, workers: int
) -> Iterator[list[Prediction]]:
    """``predict``, batch by batch, from the same parts with ``timer`` between them."""

    def load(path: Path, pre: Preprocessing, out: NDArray[np.uint8]) -> None:
        timer.end("waiting")
        try:
            image = open_photo(path, pre)
        finally:
            timer.end("decode")
        resized = resize(image, pre)
        timer.end("resize")
        out[...] = np.asarray(resized)
        timer.end("batch")

    contract = runner.contract
    with closing(read_batches(files, contract.preprocessing, batch=batch, workers=workers, load=load)) as batches:
        for read in batches:
            timer.end("waiting")
            logits_NK = _timed_call(runner, read.pixels_NHWC, timer) if len(read.pixels_NHWC) else None
            timer.end("compute")
            predictions = predictions_of(read, logits_NK, contract, TOP_K)
            timer.end("top-k")
            yield predictions


def _timed_call(runner: Runner, pixels_NHWC: NDArray[np.uint8], timer: StageTimer) -> NDArray[np.float32]:
    steps = runner.steps(pixels_NHWC)
    while True:
        try:
            timer.end(next(steps))
        except StopIteration as ended:
            logits_NK: NDArray[np.float32] = ended.value
            return logits_NK
