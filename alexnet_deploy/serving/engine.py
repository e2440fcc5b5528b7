"""One version of one engine, loaded and warm: pixels or encoded images in, logits out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.probabilities import finite_rows
from alexnet_deploy.serving.batcher import Batcher, Computed
from alexnet_deploy.serving.decoding import EncodedImage, decode
from alexnet_deploy.serving.metrics import ModelMetrics
from alexnet_deploy.serving.refusals import BadRequestError, DeadlineError, TooLargeError
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.tracing import span

# Legend: N image, H height, W width, C channel (RGB), K class


_CPU_BATCH = 8
"""INT8 in OpenVINO took 1.7 ms per image in batches of 1 to 8, 2.0 ms at 16 and 3.4 ms at 32, on two busy cores."""


_CPU_INSTANCES = 2
"""Threads of one call wait for each other, the more so where decoding takes their core for a while."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one request got: logits ``[M, K]`` of its M good images, and for each image its error or None.

    The steps are in seconds: reading images, waiting in the queue, computing (of all batches that it was part of).
    """

    logits_NK: NDArray[np.float32]
    errors: tuple[str | None, ...]
    decode_s: float
    queue_s: float
    compute_s: float

    @property
    def images(self) -> int:
        """Number of images, good or not."""
        return len(self.errors)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine in memory. ``proof`` says for people how it compared with its float model when it was built."""

    opened: OpenEngine
    instances: Sequence[OpenEngine]
    """It and its forks, which can run at the same time and are closed with it."""
    version: str
    proof: str | None


class ServedEngine:
    """One version of one engine, from its warm-up until the last request that uses it has ended."""

    def __init__(
        self, name: str, loaded: LoadedEngine, settings: Settings, pool: Executor, metrics: ModelMetrics
    ) -> None:
        """Must be made on the event loop; ``loaded`` is closed with it, ``pool`` is not."""
        opened = loaded.opened
        self.name, self.version, self.proof = name, loaded.version, loaded.proof
        self.contract = opened.contract
        self.precision, self.runtime, self.device = opened.precision, opened.runtime, opened.device
        self.description = opened.description
        self.max_batch, self.max_delay_s = largest_batch(opened, settings), settings.max_delay_s
        self._opened = opened
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._batcher = Batcher(
            loaded.instances,
            max_batch=self.max_batch,
            max_delay_s=settings.max_delay_s,
            max_queue=settings.max_queue,
            observer=metrics,
        )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep this version open for the length of the block: a request ends on the version that it began with."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def classify_images(self, images: Sequence[EncodedImage], timeout_s: float | None = None) -> Result:
        """Decode and compute; an image that cannot be decoded costs only its own answer.

        Raises a Refusal: too many images, none, a full queue, the deadline, a failing runtime.
        """
        self._check_count(len(images))
        async with self._deadline(timeout_s):
            with self._batcher.reserve(len(images)) as place:
                started = time.perf_counter()
                with span("decode", images=len(images)):
                    decoded = await decode(images, self.contract.preprocessing, self._pool, self._settings.max_pixels)
                decode_s = time.perf_counter() - started
                place.give_back(len(images) - len(decoded.pixels_NHWC))
                if len(decoded.pixels_NHWC):
                    with span("queue and compute", images=len(decoded.pixels_NHWC)):
                        computed = await self._batcher.compute(place, decoded.pixels_NHWC)
                else:
                    computed = Computed(np.empty((0, len(self.contract.labels)), np.float32), 0.0, 0.0)
        self._metrics.steps(decode_s, computed.queue_s, computed.compute_s)
        return Result(computed.logits_NK, decoded.errors, decode_s, computed.queue_s, computed.compute_s)

    async def classify_pixels(self, pixels_NHWC: NDArray[np.uint8], timeout_s: float | None = None) -> Result:
        """Compute uint8 pixels ``[N, H, W, 3]`` of the contract's size; raises as ``classify_images``."""
        self._check_count(len(pixels_NHWC))
        async with self._deadline(timeout_s):
            with self._batcher.reserve(len(pixels_NHWC)) as place, span("queue and compute", images=len(pixels_NHWC)):
                computed = await self._batcher.compute(place, pixels_NHWC)
        self._metrics.steps(None, computed.queue_s, computed.compute_s)
        errors = (None,) * len(pixels_NHWC)
        return Result(computed.logits_NK, errors, 0.0, computed.queue_s, computed.compute_s)

    def count(self, result: Result) -> None:
        """Count the images of an answer."""
        good = len(result.logits_NK)
        self._metrics.answered(good, result.images - good)

    def _check_count(self, images: int) -> None:
        if images < 1:
            raise BadRequestError("the request has no image; send one or more")
        if images > self._settings.max_images:
            raise TooLargeError(
                f"the request has {images} images, above this server's {self._settings.max_images}; split it"
            )

    def _deadline(self, timeout_s: float | None) -> _Deadline:
        return _Deadline(min(self._settings.timeout_s, timeout_s or self._settings.timeout_s))

    async def close(self) -> None:
        """Wait for the requests that use it, then release memory and threads."""
        await self._unused.wait()
        await self._batcher.close()
        await asyncio.to_thread(self._opened.close)


class _Deadline:
    """``asyncio.timeout`` whose end is a DeadlineError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._timeout.__aexit__(*exc_info)  # type: ignore[arg-type]
        except TimeoutError:
            raise DeadlineError(f"no answer within {self._seconds:g} s; try again later") from None


def concurrent_calls(settings: Settings) -> int:
    """How many calls an engine must be able to run at the same time, before its device is known."""
    return settings.instances or min(_CPU_INSTANCES, cores())


def count_instances(opened: OpenEngine, settings: Settings) -> int:
    """The ``instances`` of ``settings``, or a number that suits the device."""
    return concurrent_calls(settings) if opened.device == "cpu" else settings.instances or 1


def largest_batch(opened: OpenEngine, settings: Settings) -> int:
    """The ``max_batch`` of ``settings``, or one that suits the device."""
    return settings.max_batch or (_CPU_BATCH if opened.device == "cpu" else BATCH)


def warm_up(opened: OpenEngine, max_batch: int) -> None:
    """Run the smallest and the largest batch, so that no request waits for buffers and code made at the first call."""
    pre = opened.contract.preprocessing
    for images in sorted({1, max_batch}):
        opened(np.zeros((images, pre.height, pre.width, 3), np.uint8))


def not_finite(result: Result) -> NDArray[np.bool_]:
    """For each row of the logits whether it has a value that is no number."""
    return ~finite_rows(result.logits_NK)
