"""From images and a Runner to predictions: streaming, in order, decoding while the runner computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError, require_positive
from alexnet_deploy.images.sources import Source, load_source
from alexnet_deploy.inference.prediction import BATCH, Answer, Prediction
from alexnet_deploy.inference.side_by_side import SideBySide
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.probabilities import activate, finite_rows
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB), K class

S = TypeVar("S", bound=Path | Source)
Load = Callable[[S, Preprocessing, NDArray[np.uint8]], object]
"""Fills the last argument, uint8 ``[H, W, 3]``, from an image; InputError if it cannot be read."""

MAX_BATCH_BYTES = 2 << 30
"""Largest buffer of pixels: ``BATCH`` images of the largest side that a contract allows take 1.5 GiB."""
_FILLED = 2
"""Buffers that are being filled while the others are with runners: a slow file in one does not starve the decoders."""


@dataclass(frozen=True, slots=True)
class PixelBatch(Generic[S]):
    """Files in order, an error for each that could not be decoded, and the pixels of the others.

    ``pixels_NHWC`` is reused: it is valid until ``held`` more batches are read, as ``read_batches`` calls it.
    """

    files: tuple[S, ...]
    errors: tuple[str | None, ...]
    pixels_NHWC: NDArray[np.uint8]


def predict(
    runner: Runner | SideBySide,
    files: Iterable[Path | Source],
    *,
    top_k: int = 5,
    threshold: float | None = None,
    batch: int = BATCH,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """One Prediction per file, in the order of ``files``; memory does not grow with their number.

    ``runner``, or each of those that run side by side, must accept batches of any size up to ``batch``, as that of
    ``open_runner`` does. A file that cannot be used becomes a Prediction with an error; a failing runner ends the run
    with its exception, after the predictions for all files before its batch. When the run ends, even by closing the
    iterator, the decoding threads (``workers``, default one per core) end with it. Of the ``top_k`` classes only those
    with a probability of at least ``threshold`` are kept, which may be none.

    Raises UsageError at the call for a number out of range; a ``top_k`` above the number of classes gives all classes.
    """
    require_positive(top_k=top_k, workers=workers)
    require_threshold(threshold)
    require_batch(batch, runner.contract.preprocessing)
    pre = runner.contract.preprocessing
    if isinstance(runner, SideBySide):
        # One more than there are runners: whoever is done finds the next batch at once.
        ahead = len(runner.runners) + 1
        batches = read_batches(files, pre, batch=batch, workers=workers, held=ahead)
        return _predict_side_by_side(runner, batches, ahead, top_k, threshold)
    return _predict(runner, read_batches(files, pre, batch=batch, workers=workers), top_k, threshold)


def require_threshold(threshold: float | None) -> None:
    """UsageError unless ``threshold`` is a probability, or None for no threshold."""
    if threshold is not None and not 0.0 <= threshold <= 1.0:  # NaN as well
        raise UsageError(f"`threshold` {threshold}: is no probability; give a number within 0..1")


def require_batch(batch: int, pre: Preprocessing) -> None:
    """UsageError unless ``read_batches`` can keep its buffers of ``batch`` images."""
    require_positive(batch=batch)
    most = largest_batch(pre)
    if batch > most:
        raise UsageError(
            f"`batch` {batch}: the pixels of a batch must fit in {MAX_BATCH_BYTES >> 30} GiB; choose {most} or less"
        )


def largest_batch(pre: Preprocessing) -> int:
    """The number of images that fit in ``MAX_BATCH_BYTES``."""
    return MAX_BATCH_BYTES // (pre.height * pre.width * 3)


def _predict(
    runner: Runner, batches: Generator[PixelBatch[S]], top_k: int, threshold: float | None
) -> Iterator[Prediction]:
    with closing(batches):
        for read in batches:
            logits_NK = runner(read.pixels_NHWC) if len(read.pixels_NHWC) else None
            yield from predictions_of(read, logits_NK, runner.contract, top_k, threshold)


def _predict_side_by_side(
    runners: SideBySide, batches: Generator[PixelBatch[S]], ahead: int, top_k: int, threshold: float | None
) -> Iterator[Prediction]:
    running: deque[tuple[PixelBatch[S], Future[NDArray[np.float32]] | None]] = deque()

    def oldest() -> list[Prediction]:
        read, future = running.popleft()
        logits_NK = None if future is None else runners.result(future)
        return predictions_of(read, logits_NK, runners.contract, top_k, threshold)

    with closing(batches):
        try:
            for read in batches:
                running.append((read, runners.submit(read.pixels_NHWC) if len(read.pixels_NHWC) else None))
                if len(running) == ahead:
                    yield from oldest()
            while running:
                yield from oldest()
        finally:  # an early end: what waits is not worth computing
            for _, future in running:
                if future is not None:
                    future.cancel()


def predictions_of(
    read: PixelBatch[S],
    logits_NK: NDArray[np.float32] | None,
    contract: ModelContract,
    top_k: int,
    threshold: float | None = None,
) -> list[Prediction]:
    """One Prediction per file of ``read``; ``logits_NK`` belong to its pixels (None: no file could be decoded)."""
    answers = iter([] if logits_NK is None else top_answers(logits_NK, contract, top_k))
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        top = () if error else next(answers)
        if not (top or error):
            error = f"{file}: the model's output is not finite; try an engine of higher precision"
        if threshold is not None:
            top = tuple(answer for answer in top if answer.probability >= threshold)
        predictions.append(Prediction(str(file), top, error))
    return predictions


def top_answers(logits_NK: NDArray[np.float32], contract: ModelContract, top_k: int) -> list[tuple[Answer, ...]]:
    """The ``top_k`` most likely classes of each row, ties by index; an empty tuple for a row that is not finite.

    Probabilities are the contract's activation of logits / temperature, in float64.
    """
    scaled_NK = logits_NK.astype(np.float64) / contract.temperature
    finite_N = finite_rows(scaled_NK)
    scaled_NK[~finite_N] = 0.0
    probabilities_NK = activate(scaled_NK, contract.activation)
    order_NK = np.argsort(-scaled_NK, axis=1, kind="stable")[:, :top_k]
    return [
        tuple(Answer(int(k), contract.labels[k], float(row[k])) for k in order) if finite else ()
        for row, order, finite in zip(probabilities_NK, order_NK, finite_N, strict=True)
    ]


def read_batches(
    files: Iterable[S],
    pre: Preprocessing,
    *,
    batch: int = BATCH,
    workers: int | None = None,
    load: Load[S] = load_source,
    held: int = 1,
) -> Generator[PixelBatch[S]]:
    """Decode files in ``workers`` threads (default: one per core), up to two batches ahead of the reader.

    The reader may hold the pixels of ``held`` batches: those of a batch change when ``held`` more have been asked for.
    """
    source = iter(files)
    free = deque(np.empty((batch, pre.height, pre.width, 3), np.uint8) for _ in range(held + _FILLED))
    lent: deque[NDArray[np.uint8]] = deque()
    ahead: deque[tuple[NDArray[np.uint8], tuple[S, ...], list[Future[str | None]]]] = deque()
    pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="decode")

    def error_of(path: S, out: NDArray[np.uint8]) -> str | None:
        try:
            load(path, pre, out)
        except InputError as exc:
            return str(exc)
        return None

    try:
        while True:
            while free and (paths := tuple(islice(source, batch))):
                buffer = free.popleft()
                ahead.append((buffer, paths, [pool.submit(error_of, path, buffer[i]) for i, path in enumerate(paths)]))
            if not ahead:
                return
            buffer, paths, jobs = ahead.popleft()
            yield _read(buffer, paths, tuple(job.result() for job in jobs))
            lent.append(buffer)
            if len(lent) == held:
                free.append(lent.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _read(buffer: NDArray[np.uint8], paths: tuple[S, ...], errors: tuple[str | None, ...]) -> PixelBatch[S]:
    good = [i for i, error in enumerate(errors) if error is None]
    return PixelBatch(paths, errors, buffer[: len(paths)] if len(good) == len(paths) else buffer[good])
