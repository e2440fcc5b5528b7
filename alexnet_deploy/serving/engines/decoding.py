"""Encoded images of a request to pixels, in threads: the decoding of ``images``, with this server's limit of size."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.images.codecs.formats import before_decoding
from alexnet_deploy.images.decode import open_photo, to_pixels
from alexnet_deploy.serving.engines.pixel_budget import PixelBudget
from alexnet_deploy.serving.engines.priority import after_the_loop

T = TypeVar("T")
# Legend: N image, H height, W width, C channel (RGB)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One encoded image, and what to call it in its row and its error."""

    name: str
    content: bytes


_LARGE = 4_000_000
"""Pixels above which an image waits for its turn, and its memory is returned to the system at once."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc, which otherwise keeps what was freed, for each thread apart: 14 bytes per pixel of its largest image."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels ``[N, H, W, 3]`` of the images that could be decoded, and for each image its error or None."""

    pixels_NHWC: NDArray[np.uint8]
    errors: tuple[str | None, ...]


class Decoder:
    """The threads that decode, for all engines, which share the memory of the process.

    Large images leave one thread to the others, where there are several.
    """

    def __init__(self, threads: int, max_pixels: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "decode", initializer=after_the_loop)
        self._max_pixels = max_pixels
        self._large = PixelBudget(max_pixels, max(1, threads - 1))

    async def decode(self, images: Sequence[EncodedImage], pre: Preprocessing) -> Decoded:
        """Decode ``images``; what has not begun when the caller is cancelled, never begins."""
        results = await asyncio.gather(*(self._decode(image, pre) for image in images))
        pixels = [result for result in results if not isinstance(result, str)]
        if not pixels:
            joined = np.empty((0, pre.height, pre.width, 3), np.uint8)
        else:
            joined = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
        return Decoded(joined, tuple(result if isinstance(result, str) else None for result in results))

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call`` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    async def close(self) -> None:
        """Wait for the images that are being decoded, of clients that have left, and end the threads."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _decode(self, image: EncodedImage, pre: Preprocessing) -> NDArray[np.uint8] | str:
        """The pixels, or one line with the reason that there are none."""
        result = await self.run(_decode, image, pre, self._max_pixels, _LARGE)
        while isinstance(result, _HasToWait):
            result = await self._decode_large(image, pre, result.pixels)
        return result

    async def _decode_large(self, image: EncodedImage, pre: Preprocessing, pixels: int) -> _Result:
        await self._large.take(pixels)
        loop = asyncio.get_running_loop()
        job = self._pool.submit(_decode, image, pre, self._max_pixels, pixels)
        # Not when we are cancelled: the thread goes on, and so does its use of memory.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._large.give_back, pixels))
        return await asyncio.wrap_future(job)


class _HasToWait(Exception):
    """The image has more pixels than may be decoded without asking."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


_Result = NDArray[np.uint8] | str | _HasToWait


def _decode(image: EncodedImage, pre: Preprocessing, max_pixels: int, at_once: int) -> _Result:
    """The pixels, one line with the reason that there are none, or that there are more than ``at_once``."""
    most = 0

    def check(pixels: int) -> None:
        nonlocal most
        if pixels > at_once:
            raise _HasToWait(pixels)
        most = max(most, pixels)

    try:
        with before_decoding(check):
            photo = open_photo(image.content, pre, name=printable(image.name), max_pixels=max_pixels)
            return to_pixels(photo, pre)
    except InputError as exc:
        return exc.__cause__ if isinstance(exc.__cause__, _HasToWait) else str(exc)
    finally:
        if most > _LARGE and _trim is not None:
            _trim(0)
