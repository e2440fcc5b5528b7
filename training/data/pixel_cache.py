"""Decodes every picture once into one memory-mapped file: on cores that also train, decoding slows the steps."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.images.decode import open_rgb

# Legend: H height, W width, C channel (RGB)

_AHEAD = 64  # pictures in memory while the file is written


@dataclass(frozen=True, slots=True)
class PixelCache:
    """What ``open_rgb`` reads from each file, as pixels ``[H, W, 3]`` one after the other."""

    pixels: NDArray[np.uint8]
    """Mapped from a file without a name, which disappears with the last process that reads it."""
    offsets: NDArray[np.int64]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each picture."""

    def open(self, index: int) -> Image.Image:
        """The picture as ``open_rgb`` returned it."""
        height, width = self.sizes[index]
        start = self.offsets[index]
        return Image.fromarray(self.pixels[start : start + height * width * 3].reshape(height, width, 3))


def cache_pixels(files: Sequence[Path], folder: Path, *, threads: int) -> PixelCache:
    """Decode ``files`` into a nameless file in ``folder``: 3 bytes per pixel, in free memory, else on disk.

    Raises InputError for a file that cannot be read, UnavailableError if the disk is full, UsageError if processes are
    not forked and could not share the mapping.
    """
    if multiprocessing.get_start_method() != "fork":
        raise UsageError("`cache`: needs a system that forks processes, such as Linux; leave it out")
    sizes: list[tuple[int, int]] = []
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".pixels-") as file:
            for pixels_HWC in _decoded(files, max(1, threads)):
                sizes.append((pixels_HWC.shape[0], pixels_HWC.shape[1]))
                file.write(pixels_HWC.data)
            file.flush()
            pixels = np.memmap(file, np.uint8, "r")
    except OSError as exc:
        raise UnavailableError(
            f"`cache`: {len(files)} decoded pictures cannot be kept in {folder} ({exc.strerror}); leave it out"
        ) from exc
    ends = np.cumsum([height * width * 3 for height, width in sizes], dtype=np.int64)
    return PixelCache(pixels, np.concatenate([[0], ends[:-1]]), tuple(sizes))


def _decoded(files: Sequence[Path], threads: int) -> Iterator[NDArray[np.uint8]]:
    todo = iter(files)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(todo, _AHEAD)):
            yield from pool.map(lambda file: np.asarray(open_rgb(file)), some)
