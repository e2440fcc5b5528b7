"""From images and a Runner to predictions: streaming, in order, decoding while the runner computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError, require_positive
from alexnet_deploy.images.sources import Source
from alexnet_deploy.images.ten_crops import picture_for_crops
from alexnet_deploy.inference.batches import PixelBatch, ordinary_pixels, read_batches, require_batch
from alexnet_deploy.inference.prediction import BATCH, TOP_K, Outputs, Prediction
from alexnet_deploy.inference.rows import predictions_of
from alexnet_deploy.inference.side_by_side import Call, SideBySide, call_once
from alexnet_deploy.inference.ten_crops import ten_crop_logits
from alexnet_deploy.runtime.runner import Runner, make_pixels_of

# Legend: N batch, H height, W width, C channel (RGB), K class

S = TypeVar("S", bound=Path | Source)
T = TypeVar("T")
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
    make_pixels = partial(make, memory) if make else ordinary_pixels
    # One more than there are runners: whoever is done finds the next batch at once.
    ahead = len(runner.runners) + 1 if isinstance(runner, SideBySide) else 1
    batches = read_batches(files, pre, batch=batch, workers=workers, held=ahead, make_pixels=make_pixels)
    if isinstance(runner, SideBySide):
        found = _side_by_side(runner, batches, ahead, call, rows)
    else:
        found = _one_by_one(runner, batches, call, rows)
    return _then_free(found, memory)


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
