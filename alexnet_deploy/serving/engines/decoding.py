"""Encoded images of a request to pixels, in threads: the decoding of ``images``, with this server's limit of size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.images.decode import open_rgb, to_pixels

# Legend: N image, H height, W width, C channel (RGB)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One encoded image, and what to call it in its row and its error."""

    name: str
    content: bytes


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
    try:
        return to_pixels(open_rgb(image.content, name=name, max_pixels=max_pixels), pre)
    except InputError as exc:
        return str(exc)
