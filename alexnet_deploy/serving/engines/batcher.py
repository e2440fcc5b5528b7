"""Dynamic batching: images of several requests run in one call of the engine.

Everything here runs on the event loop's thread, except the engine's instances, each on a thread of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.engines.priority import after_the_loop
from alexnet_deploy.serving.engines.queued import (
    Compute,
    Part,
    Place,
    Request,
    Run,
    answer_parts,
    compute_parts,
    fail_parts,
)
from alexnet_deploy.serving.refusals import BusyError, NotReadyError

# Legend: N batch, H height, W width, C channel (RGB), K class

_PAUSE_S = 0.0005
"""Clients that were answered together ask again within this time of each other. Waiting on, for all of ``max_delay_s``,
leaves the engine idle: at concurrency 4 on two cores it cost a third of the throughput."""

_AWAY_S = 5.0
"""A GPU that is lost then costs one batch in this time; one that had too little memory for a moment comes back."""


class Observer(Protocol):
    """What wants to know about each batch."""

    def batch(self, images: int, compute_s: float) -> None:
        """``images`` were computed in one call."""

    def queue(self, change: int) -> None:
        """So many images more wait; if negative, fewer. During a reload two batchers add up."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Logits ``[N, K]`` of one request, and the seconds that it waited for its first batch and that its batches ran."""

    logits_NK: NDArray[np.float32]
    queue_s: float
    compute_s: float


class Batcher:
    """The queue in front of the instances of one engine.

    While all instances run, the next batch gathers. When one is free, a batch starts as soon as no image has come for
    ``_PAUSE_S``, ``max_batch`` wait for each free instance, or the oldest has waited ``max_delay_s``. It starts at once
    if nobody else seems to come: no image is being decoded, and the batch before held a single image. Instances that
    are free at the same time share what waits. One whose device fails stays away for a while if there are others: it
    would fail at once, be free at once, and so take most of the requests.
    """

    def __init__(
        self,
        instances: Sequence[Run],
        *,
        alone: Run | None = None,
        batches: Sequence[NDArray[np.uint8] | None] = (),
        max_batch: int,
        max_delay_s: float,
        max_queue: int,
        observer: Observer,
    ) -> None:
        """Must be called on a running event loop; an instance takes any number of images up to ``max_batch``.

        ``alone`` is called in place of the instances, and while none of them runs, for less than ``max_batch`` images
        if no others are being decoded. For a full batch two instances are faster: one computes while the event loop
        answers and reads for the other. ``batches`` is where each instance wants its pixels (None: anywhere).
        """
        self._alone = alone and partial(compute_parts, alone, None)
        self._max_batch, self._max_delay_s, self._max_queue = max_batch, max_delay_s, max_queue
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        # Each instance has its own: CUDA graphs of ONNX Runtime belong to the thread that made them.
        self._threads = [ThreadPoolExecutor(1, "compute", initializer=after_the_loop) for _ in instances]
        self._requests: deque[Request] = deque()
        self._queued = 0  # decoded images that wait for a batch
        self._reserved = 0  # these, and those that are being decoded
        self._last_images = 0
        self._arrived, self._more = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._ends = asyncio.Event()
        self._gathering = asyncio.Lock()  # one batch gathers at a time
        self._usable = self._free_instances = len(instances)
        self._workers = [
            self._loop.create_task(self._work(partial(compute_parts, run, joined_NHWC), thread))
            for run, thread, joined_NHWC in zip_longest(instances, self._threads, batches)
        ]

    @contextmanager
    def reserve(self, images: int) -> Iterator[Place]:
        """Room for ``images`` for the length of the block; BusyError if the queue has not so much."""
        if self._closing:
            raise NotReadyError("this engine is ending; try again")
        if self._reserved + images > self._max_queue:
            raise BusyError(
                f"the queue is full: {self._reserved} of {self._max_queue} images wait, and this request has {images}; "
                "try again later"
            )
        self._reserved += images
        self._observer.queue(images)
        place = Place(self._free, images)
        try:
            yield place
        finally:
            place.give_back()

    def _free(self, images: int) -> None:
        self._reserved -= images
        self._observer.queue(-images)

    async def compute(self, place: Place, pixels_NHWC: NDArray[np.uint8]) -> Computed:
        """The logits of all ``pixels_NHWC``, N >= 1, which must not change meanwhile.

        More than ``max_batch`` run in several calls. Whoever cancels it frees its place at once. EngineError if the
        runtime fails.
        """
        request = Request(pixels_NHWC, place, time.monotonic(), self._loop.create_future())
        self._requests.append(request)
        self._queued += len(pixels_NHWC)
        self._arrived.set()
        self._more.set()
        try:
            await request.done
        finally:
            self._drop(request)
        assert request.logits_NK is not None
        return Computed(request.logits_NK, request.queue_s, request.compute_s)

    def _drop(self, request: Request) -> None:
        left = len(request.pixels_NHWC) - request.taken
        if left:
            self._requests.remove(request)
            self._queued -= left
            request.taken = len(request.pixels_NHWC)

    async def close(self) -> None:
        """Compute what waits, then end the threads."""
        self._closing = True
        self._ends.set()
        self._arrived.set()
        self._more.set()
        await asyncio.gather(*self._workers)
        for thread in self._threads:
            thread.shutdown()

    async def _work(self, run: Compute, thread: ThreadPoolExecutor) -> None:
        while True:
            async with self._gathering:
                while not self._requests:
                    if self._closing:
                        return
                    self._arrived.clear()
                    await self._arrived.wait()
                await self._wait_for_more()
                if self._alone and self._is_little_and_all():
                    if parts := self._take(1):
                        await self._answer(self._alone, parts, thread)  # no other batch gathers meanwhile
                    continue
                parts = self._take(self._free_instances)
            if parts:
                self._free_instances -= 1
                device_fails = await self._answer(run, parts, thread)
                if device_fails and self._usable > 1:
                    self._usable -= 1
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_AWAY_S):
                            await self._ends.wait()
                    self._usable += 1
                self._free_instances += 1

    def _is_little_and_all(self) -> bool:
        """Whether less than a batch waits, and no other thread has anything to compute or to decode."""
        is_idle = self._free_instances == self._usable
        return is_idle and self._reserved == self._queued < self._max_batch

    async def _wait_for_more(self) -> None:
        alone = self._last_images <= 1 and self._reserved <= self._queued
        while not (alone or self._closing) and self._queued < self._max_batch * self._free_instances:
            left_s = self._requests[0].arrived + self._max_delay_s - time.monotonic()
            self._more.clear()
            try:
                async with asyncio.timeout(min(left_s, _PAUSE_S)):
                    await self._more.wait()
            except TimeoutError:
                return
            if not self._requests:  # all have left meanwhile
                return

    def _take(self, instances: int) -> list[Part]:
        """Rows of the oldest requests: the share of one of ``instances``, ``max_batch`` at most."""
        parts: list[Part] = []
        room, now = min(self._max_batch, -(-self._queued // instances)), time.monotonic()
        while room and self._requests:
            request = self._requests[0]
            start = request.taken
            request.taken = min(start + room, len(request.pixels_NHWC))
            if request.taken == len(request.pixels_NHWC):
                self._requests.popleft()
            if not start:
                request.queue_s = now - request.arrived
            count = request.taken - start
            room -= count
            self._queued -= count
            request.place.give_back(count)
            parts.append((request, start, request.taken))
        return parts

    async def _answer(self, run: Compute, parts: list[Part], thread: ThreadPoolExecutor) -> bool:
        """Compute and answer ``parts``; whether the device of ``run`` fails, and they with it."""
        started = time.monotonic()
        images = self._last_images = sum(stop - start for _, start, stop in parts)
        try:
            logits_NK = await self._loop.run_in_executor(thread, run, parts)
        except Exception as exc:
            fail_parts(parts, exc)
            return isinstance(exc, UnavailableError)
        compute_s = time.monotonic() - started
        self._observer.batch(images, compute_s)
        answer_parts(parts, logits_NK, compute_s)
        return False
