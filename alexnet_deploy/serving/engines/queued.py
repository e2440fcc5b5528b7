"""What waits in the queue of an engine: requests, and the parts of them that make up a batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import DeployError
from alexnet_deploy.serving.refusals import EngineError

if TYPE_CHECKING:
    Future = asyncio.Future[None]

# Legend: N batch, H height, W width, C channel (RGB), K class

_log = logging.getLogger(__name__)

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Place:
    """Room for ``images`` in the queue, from before they are decoded until a batch takes them."""

    def __init__(self, free: Callable[[int], None], images: int) -> None:
        """``free`` gets the number of images whose room is free again."""
        self._free = free
        self.images = images

    def give_back(self, images: int | None = None) -> None:
        """Free the room of ``images`` (None: all that is left)."""
        count = self.images if images is None else min(images, self.images)
        self.images -= count
        self._free(count)


class Request:
    """One request in the queue: which of its rows are not yet in a batch, and which answers have come."""

    def __init__(self, pixels_NHWC: NDArray[np.uint8], place: Place, now: float, done: Future) -> None:
        self.pixels_NHWC = pixels_NHWC
        self.place = place
        self.arrived = now
        self.done = done
        self.taken = 0
        self.answered = 0
        self.logits_NK: NDArray[np.float32] | None = None
        self.queue_s = 0.0
        self.compute_s = 0.0


Part = tuple[Request, int, int]
"""A request, and the first and the last but one of its rows that are in a batch."""
Compute = Callable[[list[Part]], NDArray[np.float32]]


def compute_parts(run: Run, joined_NHWC: NDArray[np.uint8] | None, parts: list[Part]) -> NDArray[np.float32]:
    """The logits of all rows of ``parts``, which are joined in ``joined_NHWC`` (None: anywhere)."""
    pieces = [request.pixels_NHWC[start:stop] for request, start, stop in parts]
    if len(pieces) == 1:
        return run(pieces[0])
    room_NHWC = None if joined_NHWC is None else joined_NHWC[: sum(map(len, pieces))]
    return run(np.concatenate(pieces, out=room_NHWC))


def answer_parts(parts: list[Part], logits_NK: NDArray[np.float32], compute_s: float) -> None:
    """Give each request its rows; one that has all of them is done."""
    row = 0
    for request, start, stop in parts:
        if not request.done.done():  # else its client has left
            if request.logits_NK is None:
                request.logits_NK = np.empty((len(request.pixels_NHWC), logits_NK.shape[1]), np.float32)
            request.logits_NK[start:stop] = logits_NK[row : row + stop - start]
            request.answered += stop - start
            request.compute_s += compute_s
            if request.answered == len(request.pixels_NHWC):
                request.done.set_result(None)
        row += stop - start


def fail_parts(parts: list[Part], exc: Exception) -> None:
    """End the requests of a batch that failed; only the log has the reason."""
    for request, _, _ in parts:
        if not request.done.done():
            request.done.set_exception(EngineError("the engine failed; the log of the server has the reason"))
    if isinstance(exc, DeployError):
        _log.error("a batch failed: %s", exc)
    else:
        _log.error("a batch failed", exc_info=exc)
