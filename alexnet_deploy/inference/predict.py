"""From images and a Runner to predictions: streaming, in order, decoding while the runner computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError, require_positive
from alexnet_deploy.images.sources import Source, load_source
from alexnet_deploy.images.ten_crops import picture_for_crops
from alexnet_deploy.inference.prediction import BATCH, TOP_K, Answer, Outputs, Prediction
from alexnet_deploy.inference.side_by_side import Call, SideBySide, call_once
from alexnet_deploy.inference.ten_crops import ten_crop_logits
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.probabilities import finite_rows, probabilities, unknown
from alexnet_deploy.runtime.runner import Runner, make_pixels_of

# Legend: N batch, H height, W width, C channel (RGB), K class

S = TypeVar("S", bound=Path | Source)
T = TypeVar("T")
Load = Callable[[S, Preprocessing, NDArray[np.uint8]], object]
"""Fills the last argument, uint8 ``[H, W, 3]``, from an image; InputError if it cannot be read."""

MAX_BATCH_BYTES = 2 << 30
"""Largest buffer of pixels: ``BATCH`` images of the largest side that a contract allows take 1.5 GiB."""
_NOT_FINITE = "the model's output is not finite; try an engine of higher precision"
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


Rows = Callable[[PixelBatch[S], NDArray[np.float32] | None], Iterable[T]]
"""From a batch and the output for its pixels (None: no file could be decoded), to what is wanted of them."""


def predict(
    runner: Runner | SideBySide,
    files: Iterable[Path | Source],
    *,
    top_k: int = TOP_K,
    threshold: float | None = None,
    outputs: Outputs = "top",
    ten_crop: bool = False,
    batch: int = BATCH,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """One Prediction per file, in the order of ``files``; memory does not grow with their number.

    ``runner``, or each of those that run side by side, must accept batches of any size up to ``batch``, as that of
    ``open_runner`` does. A file that cannot be used becomes a Prediction with an error; a failing runner ends the run
    with its exception, after the predictions for all files before its batch. When the run ends, even by closing the
    iterator, the decoding threads (``workers``, default one per core) end with it. Of the ``top_k`` classes only those
    with a probability of at least ``threshold`` are kept, which may be none. Other ``outputs`` than ``"top"`` have a
    number for each class; ``top_k`` and ``threshold`` do not apply to them.

    ``ten_crop`` averages the probabilities of the paper's ten views of each image (``mean_over_views``); the image is
    decoded and resized once, and a call has at most ``batch`` views. No answer is then marked as unknown: the rule for
    that was fitted on single views.

    Raises UsageError at the call for a number out of range; a ``top_k`` above the number of classes gives all classes.
    """
    require_positive(top_k=top_k, workers=workers)
    require_threshold(threshold)
    contract, pre = runner.contract, runner.contract.preprocessing
    call = call_once
    if ten_crop:
        pre = picture_for_crops(pre)
        contract = contract_for_crops(contract)
        call = partial(ten_crop_logits, batch=batch)
    require_batch(batch, pre)
    rows = partial(predictions_of, contract=contract, top_k=top_k, threshold=threshold, outputs=outputs)
    return in_batches(runner, files, rows, pre, batch=batch, workers=workers, call=call)


def in_batches(
    runner: Runner | SideBySide,
    files: Iterable[S],
    rows: Rows[S, T],
    pre: Preprocessing,
    *,
    batch: int,
    workers: int | None = None,
    call: Call = call_once,
) -> Iterator[T]:
    """What ``rows`` makes of each batch of ``files``, in their order; ``pre`` makes the pixels that ``call`` gets."""
    # Views of a picture are new arrays: only whole ones go to a GPU as they were decoded.
    one = runner.runners[0] if isinstance(runner, SideBySide) else runner
    make = make_pixels_of(one) if call is call_once else None
    memory = ExitStack()
    make_pixels = partial(make, memory) if make else _ordinary
    # One more than there are runners: whoever is done finds the next batch at once.
    ahead = len(runner.runners) + 1 if isinstance(runner, SideBySide) else 1
    batches = read_batches(files, pre, batch=batch, workers=workers, held=ahead, make_pixels=make_pixels)
    if isinstance(runner, SideBySide):
        found = _side_by_side(runner, batches, ahead, call, rows)
    else:
        found = _one_by_one(runner, batches, call, rows)
    return _then_free(found, memory)


def _ordinary(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def _then_free(found: Generator[T], memory: ExitStack) -> Iterator[T]:
    """``memory`` is freed when no decoder writes into it and no call reads from it any more."""
    with memory, closing(found):
        yield from found


def contract_for_crops(contract: ModelContract) -> ModelContract:
    """The contract of averaged views: a rule for unknown answers was fitted on single views, and does not apply."""
    return contract if contract.rejection is None else replace(contract, rejection=None)


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


def _one_by_one(runner: Runner, batches: Generator[PixelBatch[S]], call: Call, rows: Rows[S, T]) -> Generator[T]:
    with closing(batches):
        for read in batches:
            yield from rows(read, call(runner, read.pixels_NHWC) if len(read.pixels_NHWC) else None)


def _side_by_side(
    runners: SideBySide, batches: Generator[PixelBatch[S]], ahead: int, call: Call, rows: Rows[S, T]
) -> Generator[T]:
    running: deque[tuple[PixelBatch[S], Future[NDArray[np.float32]] | None]] = deque()

    def oldest() -> Iterable[T]:
        read, future = running.popleft()
        return rows(read, None if future is None else runners.result(future))

    with closing(batches):
        try:
            for read in batches:
                running.append((read, runners.submit(read.pixels_NHWC, call) if len(read.pixels_NHWC) else None))
                if len(running) == ahead:
                    yield from oldest()
            while running:
                yield from oldest()
        finally:  # an early end: what waits is not worth computing, and what runs reads the pixels
            wait([future for _, future in running if future is not None and not future.cancel()])


def predictions_of(
    read: PixelBatch[S],
    logits_NK: NDArray[np.float32] | None,
    contract: ModelContract,
    top_k: int,
    threshold: float | None = None,
    outputs: Outputs = "top",
) -> list[Prediction]:
    """One Prediction per file of ``read``; ``logits_NK`` belong to its pixels (None: no file could be decoded)."""
    if outputs != "top":
        return _full_predictions(read, logits_NK, contract, outputs)
    answers = iter([] if logits_NK is None else top_answers(logits_NK, contract, top_k))
    marks = _unknown_marks(logits_NK, contract)
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        top, mark = ((), None) if error else (next(answers), next(marks))
        if not (top or error):
            error = f"{file}: {_NOT_FINITE}"
        if threshold is not None:
            top = tuple(answer for answer in top if answer.probability >= threshold)
        predictions.append(Prediction(str(file), top, error, unknown=mark))
    return predictions


def _full_predictions(
    read: PixelBatch[S], logits_NK: NDArray[np.float32] | None, contract: ModelContract, outputs: Outputs
) -> list[Prediction]:
    """``predictions_of`` with a number for each class."""
    finite_N = iter([] if logits_NK is None else finite_rows(logits_NK).tolist())
    values: Iterator[list[float]] = iter([])
    if logits_NK is not None:
        usable_NK = logits_NK[finite_rows(logits_NK)]
        values = iter((usable_NK if outputs == "logits" else probabilities(usable_NK, contract)).tolist())
    marks = _unknown_marks(logits_NK, contract)
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        mark = None if error else next(marks)
        if error is None and not next(finite_N):
            error = f"{file}: {_NOT_FINITE}"
        predictions.append(Prediction(str(file), (), error, outputs, None if error else tuple(next(values)), mark))
    return predictions


def _unknown_marks(logits_NK: NDArray[np.float32] | None, contract: ModelContract) -> Iterator[bool | None]:
    """For each row whether its answer is unknown; None without a rule and for a row that is not finite."""
    if logits_NK is None or contract.rejection is None:
        return repeat(None)
    finite_N = finite_rows(logits_NK)
    marks: list[bool | None] = [None] * len(logits_NK)
    found = unknown(logits_NK[finite_N], contract)
    assert found is not None
    for i, mark in zip(np.flatnonzero(finite_N).tolist(), found.tolist(), strict=True):
        marks[i] = mark
    return iter(marks)


def top_answers(logits_NK: NDArray[np.float32], contract: ModelContract, top_k: int) -> list[tuple[Answer, ...]]:
    """The ``top_k`` most likely classes of each row, ties by index; an empty tuple for a row that is not finite.

    Probabilities are those of the contract, in float64.
    """
    finite_N = finite_rows(logits_NK)
    usable_NK = np.where(finite_N[:, None], logits_NK, np.float32(0))
    probabilities_NK = probabilities(usable_NK, contract)
    order_NK = np.argsort(-usable_NK, axis=1, kind="stable")[:, :top_k]
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
    make_pixels: Callable[[tuple[int, ...]], NDArray[np.uint8]] = _ordinary,
) -> Generator[PixelBatch[S]]:
    """Decode files in ``workers`` threads (default: one per core), up to two batches ahead of the reader.

    The reader may hold the pixels of ``held`` batches: those of a batch change when ``held`` more have been asked for.
    ``make_pixels`` makes the memory that is decoded into, until the iterator ends.
    """
    source = iter(files)
    free = deque(make_pixels((batch, pre.height, pre.width, 3)) for _ in range(held + _FILLED))
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
