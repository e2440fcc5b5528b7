"""Encoded images of a request to pixels, in threads: the decoding of ``images``, with this server's limit of size."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.images.codecs.formats import before_decoding
from alexnet_deploy.images.decode import open_rgb, to_pixels

# Legend: N image, H height, W width, C channel (RGB)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One encoded image, and what to call it in its row and its error."""

    name: str
    content: bytes


class PixelBudget:
    """Images are decoded at the same time while their pixels together stay within a limit; one alone always is.

    A file of 38 bytes can hold the largest image allowed, and takes up to 24 bytes per pixel while it is decoded. First
    come, first served: a large image is not overtaken for ever by small ones.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._used = 0

    def take(self, pixels: int, limit: int) -> None:
        """Wait until ``pixels`` more stay within ``limit``, or are alone; the caller must give them back."""
        with self._changed:
            if self._waiting or not self._fits(pixels, limit):
                place = object()
                self._waiting.append(place)
                try:
                    self._changed.wait_for(lambda: self._waiting[0] is place and self._fits(pixels, limit))
                finally:
                    self._waiting.remove(place)
                    self._changed.notify_all()
            self._used += pixels

    def give_back(self, pixels: int) -> None:
        """What ``take`` took."""
        with self._changed:
            self._used -= pixels
            if self._waiting:
                self._changed.notify_all()

    def _fits(self, pixels: int, limit: int) -> bool:
        return not self._used or self._used + pixels <= limit


_LARGE = 4_000_000
"""Pixels above which the memory of an image is returned to the system at once; that of smaller ones is used again."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc, which otherwise keeps what was freed, for each thread apart: 14 bytes per pixel of its largest image."""

_BUDGET = PixelBudget()
"""One for all engines: they share the memory of the process."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels ``[N, H, W, 3]`` of the images that could be decoded, and for each image its error or None."""

    pixels_NHWC: NDArray[np.uint8]
    errors: tuple[str | None, ...]


async def decode(images: Sequence[EncodedImage], pre: Preprocessing, pool: Executor, max_pixels: int) -> Decoded:
    """Decode in ``pool``; what has not begun when the caller is cancelled, never begins."""
    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(pool, _decode, image, pre, max_pixels) for image in images]
    results = await asyncio.gather(*jobs)
    pixels = [result for result in results if not isinstance(result, str)]
    if not pixels:
        joined = np.empty((0, pre.height, pre.width, 3), np.uint8)
    else:
        joined = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
    return Decoded(joined, tuple(result if isinstance(result, str) else None for result in results))


def _decode(image: EncodedImage, pre: Preprocessing, max_pixels: int) -> NDArray[np.uint8] | str:
    """The pixels, or one line with the reason that there are none."""
    name = printable(image.name)
    taken = 0

    def take(pixels: int) -> None:
        nonlocal taken
        if pixels > taken:  # nobody waits while holding some: two who do would wait for each other
            held, taken = taken, 0
            _BUDGET.give_back(held)
            _BUDGET.take(pixels, max_pixels)
            taken = pixels

    try:
        with before_decoding(take):
            return to_pixels(open_rgb(image.content, name=name, max_pixels=max_pixels), pre)
    except InputError as exc:
        return str(exc)
    finally:
        if taken > _LARGE and _trim is not None:
            _trim(0)
        _BUDGET.give_back(taken)
