"""The copies of one engine that compute at the same time, warm, and closed together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.batches import MAX_BATCH_BYTES
from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.serving.settings import Settings

_CPU_BATCH = 8
"""INT8 in OpenVINO took 1.7 ms per image in batches of 1 to 8, 2.0 ms at 16 and 3.4 ms at 32, on two busy cores."""
_CPU_INSTANCES = 2
"""Threads of one call wait for each other, the more so where decoding takes their core for a while."""


@dataclass(frozen=True, slots=True)
class Instances:
    """Engines of the same bundle; ``sharing`` run at the same time, each on its share of the threads or on a GPU.

    ``alone`` has all threads, for a few images beside which nothing else runs: with a share of them they would take up
    to twice as long. None where there is one instance only, which has all threads anyway.
    """

    sharing: tuple[OpenEngine, ...]
    alone: OpenEngine | None
    batches: tuple[NDArray[np.uint8] | None, ...]
    """For each of ``sharing`` on a GPU, memory for ``max_batch`` images that it copies as it is; else None."""
    max_batch: int
    resources: ExitStack

    @property
    def first(self) -> OpenEngine:
        """Any of them, for what they have in common."""
        return self.sharing[0]

    def close(self) -> None:
        """Release memory and threads of all."""
        self.resources.close()


def open_instances(open_one: Callable[[int], OpenEngine], settings: Settings) -> Instances:
    """Open the engine that ``open_one(concurrency)`` opens, as often as ``settings`` or its device ask for."""
    with ExitStack() as resources:
        calls = settings.instances or (min(_CPU_INSTANCES, cores()) if settings.device is None else 1)
        first = resources.enter_context(open_one(calls))
        on_cpu = first.device == "cpu"
        count = calls if on_cpu else settings.instances or 1
        if count < calls and first.runtime == "onnxruntime-cuda":
            # Only now is it known that it runs on a GPU. A session for several calls replays no CUDA graphs.
            first.close()
            first = resources.enter_context(open_one(count))
        # One per GPU first: while few requests come, each of them has a GPU of its own.
        sharing = (*first.cards, *(card.fork() for _ in range(count - 1) for card in first.cards))
        alone = resources.enter_context(open_one(1)) if on_cpu and count > 1 else None
        max_batch = settings.max_batch or (_CPU_BATCH if on_cpu else BATCH)
        _require_room(max_batch, first.contract.preprocessing)
        for each in (*sharing, alone):
            if each is not None:
                _warm_up(each, max_batch)
        pre = first.contract.preprocessing
        shape = (max_batch, pre.height, pre.width, 3)
        batches = tuple(each.make_pixels(resources, shape) if each.make_pixels else None for each in sharing)
        return Instances(sharing, alone, batches, max_batch, resources.pop_all())


def _require_room(max_batch: int, pre: Preprocessing) -> None:
    """UsageError for batches that ``infer`` does not take either: the warm-up would only end when memory does."""
    most = MAX_BATCH_BYTES // (pre.height * pre.width * 3)
    if max_batch > most:
        raise UsageError(
            f"`max_batch` {max_batch}: the pixels of a batch must fit in {MAX_BATCH_BYTES >> 30} GiB; choose {most} or "
            "less"
        )


def _warm_up(opened: OpenEngine, max_batch: int) -> None:
    """Run the smallest and the largest batch, so that no request waits for buffers and code made at the first call."""
    pre = opened.contract.preprocessing
    for images in sorted({1, max_batch}):
        opened(np.zeros((images, pre.height, pre.width, 3), np.uint8))
