"""Images are decoded into batches of pixels, in threads, ahead of whoever computes on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError, require_positive
from alexnet_deploy.images.remote import Downloads
from alexnet_deploy.images.sources import Source, load_source
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.machine.cpu import cores

# Legend: H height, W width

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


def ordinary_pixels(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that no device reads by itself."""
    return np.empty(shape, np.uint8)


def read_batches(
    files: Iterable[S],
    pre: Preprocessing,
    *,
    batch: int = BATCH,
    workers: int | None = None,
    load: Load[S] = load_source,
    held: int = 1,
    make_pixels: Callable[[tuple[int, ...]], NDArray[np.uint8]] = ordinary_pixels,
) -> Generator[PixelBatch[S]]:
    """Decode files in ``workers`` threads (default: one per core), up to two batches ahead of the reader.

    The reader may hold the pixels of ``held`` batches: those of a batch change when ``held`` more have been asked for.
    ``make_pixels`` makes the memory that is decoded into, until the iterator ends.
    """
    source = iter(files)
    free = deque(make_pixels((batch, pre.height, pre.width, 3)) for _ in range(held + _FILLED))
    lent: deque[NDArray[np.uint8]] = deque()
    ahead: deque[tuple[NDArray[np.uint8], tuple[S, ...], list[Future[str | None]]]] = deque()
    downloads = Downloads()
    pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="decode", initializer=downloads.join)

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
        downloads.end()  # the pool waits for its threads, and they would for a silent server
        pool.shutdown(cancel_futures=True)


def _read(buffer: NDArray[np.uint8], paths: tuple[S, ...], errors: tuple[str | None, ...]) -> PixelBatch[S]:
    good = [i for i, error in enumerate(errors) if error is None]
    return PixelBatch(paths, errors, buffer[: len(paths)] if len(good) == len(paths) else buffer[good])
