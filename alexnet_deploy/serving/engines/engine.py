"""One version of one engine, loaded and warm: pixels or encoded images in, logits (or features) out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.probabilities import finite_rows
from alexnet_deploy.serving.engines.batcher import Batcher, Computed
from alexnet_deploy.serving.engines.decoding import Decoder, EncodedImage
from alexnet_deploy.serving.engines.instances import Instances
from alexnet_deploy.serving.metrics import ModelMetrics
from alexnet_deploy.serving.refusals import BadRequestError, DeadlineError, TooLargeError
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.tracing import span

# Legend: N image, H height, W width, C channel (RGB), K class

T = TypeVar("T")
_IN_POOL = 256 << 10
"""Bytes above which reading a request takes longer than changing threads; a photo that is sent as it is needs none."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one request got: logits ``[M, K]`` of its M good images, and for each image its error or None.

    Those of a feature engine are the features, as a runner's are.
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

    instances: Instances
    version: str
    proof: str | None


class ServedEngine:
    """One version of one engine, from its warm-up until the last request that uses it has ended."""

    def __init__(
        self, name: str, loaded: LoadedEngine, settings: Settings, decoder: Decoder, metrics: ModelMetrics
    ) -> None:
        """Must be made on the event loop; ``loaded`` is closed with it, ``decoder`` is not."""
        self._instances = instances = loaded.instances
        opened = instances.first
        self.name, self.version, self.proof = name, loaded.version, loaded.proof
        self.contract = opened.contract
        self.precision, self.runtime, self.device = opened.precision, opened.runtime, opened.device
        self.description = " and ".join(each.description for each in opened.cards)
        self.max_batch, self.max_delay_s = instances.max_batch, settings.max_delay_s
        self._settings = settings
        self._decoder = decoder
        self._metrics = metrics
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._batcher = Batcher(
            instances.sharing,
            alone=instances.alone,
            batches=instances.batches,
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
        self.check_count(len(images))
        async with self._deadline(timeout_s):
            with self._batcher.reserve(len(images)) as place:
                started = time.perf_counter()
                with span("decode", images=len(images)):
                    decoded = await self._decoder.decode(images, self.contract.preprocessing)
                decode_s = time.perf_counter() - started
                place.give_back(len(images) - len(decoded.pixels_NHWC))
                if len(decoded.pixels_NHWC):
                    with span("queue and compute", images=len(decoded.pixels_NHWC)):
                        computed = await self._batcher.compute(place, decoded.pixels_NHWC)
                else:
                    computed = Computed(np.empty((0, self.contract.outputs), np.float32), 0.0, 0.0)
        self._metrics.steps(decode_s, computed.queue_s, computed.compute_s)
        return Result(computed.logits_NK, decoded.errors, decode_s, computed.queue_s, computed.compute_s)

    async def classify_pixels(self, pixels_NHWC: NDArray[np.uint8], timeout_s: float | None = None) -> Result:
        """Compute uint8 pixels ``[N, H, W, 3]`` of the contract's size; raises as ``classify_images``."""
        self.check_count(len(pixels_NHWC))
        async with self._deadline(timeout_s):
            with self._batcher.reserve(len(pixels_NHWC)) as place, span("queue and compute", images=len(pixels_NHWC)):
                computed = await self._batcher.compute(place, pixels_NHWC)
        self._metrics.steps(None, computed.queue_s, computed.compute_s)
        errors = (None,) * len(pixels_NHWC)
        return Result(computed.logits_NK, errors, 0.0, computed.queue_s, computed.compute_s)

    @contextmanager
    def counted(self, result: Result) -> Iterator[None]:
        """For the block that makes the answer: then count its images, all as failed if they are refused together."""
        good = 0
        try:
            yield
            good = len(result.logits_NK) - int(not_finite(result).sum())
        finally:
            self._metrics.answered(good, result.images - good)

    def require_room(self) -> None:
        """BusyError if the queue has no room for one more image: a request is refused before its body is read."""
        with self._batcher.reserve(1):
            pass

    async def in_pool(self, size: int, call: Callable[..., T], *arguments: Any) -> T:
        """``call`` beside the event loop, in a thread that decodes, if it works on many bytes."""
        if size <= _IN_POOL:
            return call(*arguments)
        return await self._decoder.run(call, *arguments)

    def check_count(self, images: int) -> None:
        """BadRequestError for a request without images, TooLargeError for too many images or too large an answer.

        The features of an image may take megabytes, so a small request could cost gigabytes.
        """
        if images < 1:
            raise BadRequestError("the request has no image; send one or more")
        if images > self._settings.max_images:
            raise TooLargeError(
                f"the request has {images} images, above this server's {self._settings.max_images}; split it"
            )
        if images > 1 and (size := 4 * images * self.contract.outputs) > self._settings.max_body:
            raise TooLargeError(
                f"the answer to {images} images would have {size} bytes, above this server's "
                f"{self._settings.max_body}; split the request"
            )

    def _deadline(self, timeout_s: float | None) -> _Deadline:
        return _Deadline(min(self._settings.timeout_s, timeout_s or self._settings.timeout_s))

    async def close(self) -> None:
        """Wait for the requests that use it, then release memory and threads."""
        await self._unused.wait()
        await self._batcher.close()
        await asyncio.to_thread(self._instances.close)


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


def not_finite(result: Result) -> NDArray[np.bool_]:
    """For each row of the logits whether it has a value that is no number."""
    return ~finite_rows(result.logits_NK)
