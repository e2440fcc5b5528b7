"""The two sides of LoadGen's interface: a query sample library, and a system under test."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import mlperf_loadgen
import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.profiling.mlperf.log import encode_answers
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB)

PERFORMANCE_SAMPLES = 1024
"""Images in memory at once: ``performance_sample_count`` of MLPerf's ResNet-50, which sees the same 224 x 224."""
MAX_SAMPLE_BYTES = 256 << 20
"""Memory for them: 1024 images of 224 x 224 are 147 MiB; of larger images, fewer are held."""
SAMPLES_PER_QUERY = 8
"""Images per query of MultiStream, by MLPerf's rules."""


class SampleLibrary:
    """LoadGen's query sample library: images by number, decoded when LoadGen loads them."""

    def __init__(self, files: Sequence[Path], pre: Preprocessing, seed: int) -> None:
        self.image_bytes = pre.height * pre.width * 3
        fit = min(PERFORMANCE_SAMPLES, max(SAMPLES_PER_QUERY, MAX_SAMPLE_BYTES // self.image_bytes))
        self.total = len(files) or fit
        self.at_once = min(fit, self.total)
        self.unreadable: dict[int, str] = {}
        """The reason on one line, by number of the image; it runs as black pixels and gets no answer."""
        self._files = files
        self._pre = pre
        self._seed = seed
        self._row_of: dict[int, int] = {}
        self._pixels_NHWC = np.zeros((0, pre.height, pre.width, 3), np.uint8)

    def load(self, indices: Sequence[int]) -> None:
        """Replace the images in memory; MultiStream names some of them twice, which makes each query contiguous.

        Raises InputError if none of them can be read.
        """
        shape = (len(indices), self._pre.height, self._pre.width, 3)
        self._row_of = {index: row for row, index in reversed(list(enumerate(indices)))}
        if self._files:
            self._pixels_NHWC = np.zeros(shape, np.uint8)
            with ThreadPoolExecutor() as pool:
                errors = pool.map(self._decode, indices, self._pixels_NHWC)
            self.unreadable |= {i: error for i, error in zip(indices, errors, strict=True) if error}
            if self.unreadable.keys() >= set(indices):
                raise InputError(f"{self.unreadable[indices[0]]}; of {len(set(indices))} images none can be read")
        else:
            self._pixels_NHWC = np.random.default_rng(self._seed).integers(0, 256, shape, dtype=np.uint8)

    def _decode(self, index: int, out: NDArray[np.uint8]) -> str | None:
        try:
            load_pixels(self._files[index], self._pre, out)
        except InputError as exc:
            return str(exc)
        return None

    def pixels(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Pixels ``[N, H, W, 3]`` of loaded images, without a copy if they are contiguous."""
        rows = [self._row_of[index] for index in indices]
        first, count = rows[0], len(rows)
        in_a_row = rows == list(range(first, first + count))
        return self._pixels_NHWC[first : first + count] if in_a_row else self._pixels_NHWC[rows]


class _Sample(Protocol):
    """LoadGen's QuerySample."""

    id: int
    index: int


class SystemUnderTest:
    """LoadGen's system under test: a queue, and one thread per runner that takes the waiting samples as one batch."""

    def __init__(
        self, runners: Sequence[Runner], samples: SampleLibrary, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._runners = runners
        self._samples = samples
        self._on_failure = on_failure
        self._max_batch = 1
        self._waiting: deque[tuple[int, int]] = deque()
        self._arrived = threading.Condition()
        self._idle = 0
        for runner in runners:
            threading.Thread(target=self._work, args=(runner,), daemon=True).start()

    def prepare(self, max_batch: int) -> None:
        """Before a run: set the maximum batch size, and run each batch size that can occur once on every runner.

        A runtime prepares for a size when it first sees it (OpenVINO: 10 to 40 ms), which is not latency of a query.
        """
        pre = self._runners[0].contract.preprocessing
        pixels_NHWC = np.zeros((max_batch, pre.height, pre.width, 3), np.uint8)
        for runner in self._runners:
            for size in batch_sizes(max_batch):
                runner(pixels_NHWC[:size])
        self._max_batch = max_batch

    def issue(self, queries: Sequence[_Sample]) -> None:
        """Called by LoadGen; returns at once."""
        arrived = [(query.id, query.index) for query in queries]
        with self._arrived:
            self._waiting += arrived
            self._arrived.notify_all()

    def _take(self) -> list[tuple[int, int]]:
        """The share of the waiting samples for this thread, among the idle ones."""
        with self._arrived:
            self._idle += 1
            while not self._waiting:
                self._arrived.wait()
            share = -(-len(self._waiting) // self._idle)
            self._idle -= 1
            size = max(size for size in batch_sizes(self._max_batch) if size <= share)
            return [self._waiting.popleft() for _ in range(size)]

    def _work(self, runner: Runner) -> None:
        try:
            while True:
                ids, indices = zip(*self._take(), strict=True)
                answers = encode_answers(runner(self._samples.pixels(indices)))
                # LoadGen reads this memory until QuerySamplesComplete returns.
                address, size = answers.ctypes.data, answers.itemsize
                no_answer = self._samples.unreadable
                responses = [
                    mlperf_loadgen.QuerySampleResponse(id_, address + row * size, 0 if index in no_answer else size)
                    for row, (id_, index) in enumerate(zip(ids, indices, strict=True))
                ]
                mlperf_loadgen.QuerySamplesComplete(responses)
        except BaseException as exc:
            self._on_failure(exc)


@functools.cache
def batch_sizes(most: int) -> tuple[int, ...]:
    """Powers of two below ``most``, and ``most``: a runtime prepares only few sizes, and none is padded."""
    return (*(1 << i for i in range((most - 1).bit_length())), most)
