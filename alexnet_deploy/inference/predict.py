"""Images + a Runner -> predictions: streaming, in order, decoding while the runner computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.stage_timer import Lap, no_lap

# Legend: N batch, H height, W width, C channel (RGB), K class

BATCH = 32
"""Past this size a CPU gains nothing, and the first rows would only come later."""

_BUFFERS = 3  # one with the runner, two being filled: a slow file in one does not starve the decoders


@dataclass(frozen=True, slots=True)
class Answer:
    """One class of a prediction; ``index`` is its position in the logits."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one file: the likeliest classes first, or the one line that says why not."""

    file: str
    top: tuple[Answer, ...]
    error: str | None = None

    def as_row(self) -> dict[str, Any]:
        """JSON-ready: ``{"file": …, "top": [{"index": …, "label": …, "probability": …}, …], "error": …}``."""
        top = [{"index": a.index, "label": a.label, "probability": a.probability} for a in self.top]
        return {"file": self.file, "top": top, "error": self.error}


@dataclass(frozen=True, slots=True)
class PixelBatch:
    """Files in order, an error for each that could not be decoded, and the pixels of the others.

    ``pixels_NHWC`` is reused: it holds until the next batch is asked for.
    """

    files: tuple[Path, ...]
    errors: tuple[str | None, ...]
    pixels_NHWC: NDArray[np.uint8]


def predict(
    runner: Runner,
    files: Iterable[Path],
    *,
    top_k: int = 5,
    batch: int = BATCH,
    workers: int | None = None,
    lap: Lap = no_lap,
) -> Iterator[Prediction]:
    """One Prediction a file, in the order of ``files``, however many there are: memory does not grow with them.

    ``runner`` takes batches of any size up to ``batch`` (``open_runner`` sees to that). A file that cannot be
    used becomes a Prediction with an error; a failing runner ends the run with its exception. However the run
    ends, closing the iterator included, the decoding threads (``workers``, default one a core) end with it. ``lap``
    is told of each stage that a thread has ended: ``waiting``, ``decode``, ``resize``, ``batch``, ``compute``,
    ``top-k``, ``output`` (what the caller does with the rows), and of a GPU ``host-to-device`` and ``device-to-host``.

    Raises UsageError at the call for a number out of range; more ``top_k`` than classes gives all classes.
    """
    for name, value in (("top_k", top_k), ("batch", batch), ("workers", 1 if workers is None else workers)):
        if value < 1:
            raise UsageError(f"`{name}` {value} is out of range; use 1 or more")
    return _predict(runner, files, top_k, batch, workers, lap)


def _predict(
    runner: Runner, files: Iterable[Path], top_k: int, batch: int, workers: int | None, lap: Lap
) -> Iterator[Prediction]:
    batches = read_batches(files, runner.contract.preprocessing, batch=batch, workers=workers, lap=lap)
    before, runner.lap = runner.lap, lap
    try:
        for read in batches:
            lap("waiting")
            yield from _answered(runner, read, top_k, lap)
            lap("output")
    finally:
        batches.close()
        runner.lap = before


def _answered(runner: Runner, read: PixelBatch, top_k: int, lap: Lap) -> list[Prediction]:
    logits_NK = runner(read.pixels_NHWC) if len(read.pixels_NHWC) else None
    lap("compute")
    answers = iter([] if logits_NK is None else top_answers(logits_NK, runner.contract, top_k))
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        top = () if error else next(answers)
        if not (top or error):
            error = f"{file}: the model's output is not finite; try an engine of higher precision"
        predictions.append(Prediction(str(file), top, error))
    lap("top-k")
    return predictions


def top_answers(logits_NK: NDArray[np.float32], contract: ModelContract, top_k: int) -> list[tuple[Answer, ...]]:
    """The ``top_k`` likeliest classes of each row, equal ones by index; an empty tuple for a row that is not finite.

    Probabilities are softmax(logits / temperature) in float64.
    """
    scaled_NK = logits_NK.astype(np.float64) / contract.temperature
    finite_N = np.all(np.isfinite(scaled_NK), axis=1)
    scaled_NK[~finite_N] = 0.0
    powers_NK = np.exp(scaled_NK - scaled_NK.max(axis=1, keepdims=True))
    probabilities_NK = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    order_NK = np.argsort(-scaled_NK, axis=1, kind="stable")[:, :top_k]
    return [
        tuple(Answer(int(k), contract.labels[k], float(row[k])) for k in order) if finite else ()
        for row, order, finite in zip(probabilities_NK, order_NK, finite_N, strict=True)
    ]


def read_batches(
    files: Iterable[Path], pre: Preprocessing, *, batch: int = BATCH, workers: int | None = None, lap: Lap = no_lap
) -> Generator[PixelBatch]:
    """Decode files in ``workers`` threads (default: one a core), up to two batches ahead of the reader."""
    source = iter(files)
    free = deque(np.empty((batch, pre.height, pre.width, 3), np.uint8) for _ in range(_BUFFERS))
    ahead: deque[tuple[NDArray[np.uint8], tuple[Path, ...], list[Future[str | None]]]] = deque()
    pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="decode")

    def work(path: Path, out: NDArray[np.uint8]) -> str | None:
        lap("waiting")
        return _decode(path, out, pre, lap)

    try:
        while True:
            while free and (paths := tuple(islice(source, batch))):
                buffer = free.popleft()
                ahead.append((buffer, paths, [pool.submit(work, path, buffer[i]) for i, path in enumerate(paths)]))
            if not ahead:
                return
            buffer, paths, jobs = ahead.popleft()
            yield _read(buffer, paths, tuple(job.result() for job in jobs))
            free.append(buffer)
    finally:
        pool.shutdown(cancel_futures=True)


def _read(buffer: NDArray[np.uint8], paths: tuple[Path, ...], errors: tuple[str | None, ...]) -> PixelBatch:
    good = [i for i, error in enumerate(errors) if error is None]
    return PixelBatch(paths, errors, buffer[: len(paths)] if len(good) == len(paths) else buffer[good])


def _decode(path: Path, out: NDArray[np.uint8], pre: Preprocessing, lap: Lap) -> str | None:
    try:
        load_pixels(path, pre, out, lap=lap)
    except InputError as exc:
        return str(exc)
    return None
