"""A batcher whose engine a test holds still, lets fail and looks at."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.serving.engines.batcher import Batcher, Computed

HOUR = 3600.0


class Engine:
    """Logits are the first value of each image, and its double. Waits for ``gate``; keeps the sizes of its batches."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.observed: list[int] = []
        self.fails: Exception | None = None
        self.queue: list[int] = []
        self.threads: set[int] = set()
        if is_open:
            self.gate.set()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(pixels_NHWC))
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.gate.wait(60)
        if self.fails is not None:
            raise self.fails
        first_N = pixels_NHWC[:, 0, 0, 0].astype(np.float32)
        return np.stack([first_N, 2 * first_N], axis=1)

    def batch(self, images: int, compute_s: float) -> None:
        self.observed.append(images)
        assert compute_s >= 0

    def queue_length(self) -> int:
        return sum(self.queue)

    async def has_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


class Watched(Batcher):
    """A batcher of one ``Engine``, which also is its observer."""

    def __init__(
        self,
        engine: Engine,
        *,
        instances: int = 1,
        others: Sequence[Engine] = (),
        alone: Engine | None = None,
        batches: Sequence[NDArray[np.uint8] | None] = (),
        max_batch: int = 4,
        max_delay_s: float = 0.0,
        max_queue: int = 100,
    ) -> None:
        class Observer:
            batch = staticmethod(engine.batch)
            queue = staticmethod(engine.queue.append)

        super().__init__(
            [*[engine] * instances, *others],
            alone=alone,
            batches=batches,
            max_batch=max_batch,
            max_delay_s=max_delay_s,
            max_queue=max_queue,
            observer=Observer(),
        )


def pixels(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


async def ask(batcher: Batcher, *values: int) -> list[float]:
    with batcher.reserve(len(values)) as place:
        computed: Computed = await batcher.compute(place, pixels(*values))
    assert computed.logits_NK[:, 1].tolist() == [2 * v for v in computed.logits_NK[:, 0]]
    return computed.logits_NK[:, 0].tolist()


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())
