"""The GPU seam without a GPU: a device whose stream runs only when it is waited for.

Memory is real (bytes by pointer), so a wrong pointer, size or order gives wrong logits. Work is queued and done at
``synchronize``, as on a GPU, so a result that is read too early is stale. Every handle that is not given back stays
in ``live``. ``fail_at`` makes the n-th call of the device fail.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError

Work = Callable[[], None]
_thread = threading.local()


def current_gpu() -> int:
    """Number of the GPU that is current for this thread: 0 unless another one was made so, as in CUDA."""
    return getattr(_thread, "gpu", 0)


class FakeDevice:
    """See ``runtime.cuda.Device``."""

    def __init__(
        self,
        *,
        capability: str = "sm89",
        graphs: bool = True,
        fail_at: int | None = None,
        index: int = 0,
        count: int = 1,
    ) -> None:
        self.index, self.count = index, count
        self.lost = False
        """Every call fails from now on."""
        self.name = f"fake GPU {capability}"
        self.card = f"a card with {capability}"
        self.capability = capability
        self.graphs = graphs
        self.fail_at = fail_at
        self.calls: list[str] = []
        self.live: set[tuple[str, int]] = set()
        self.memory: dict[int, bytearray] = {}
        self.moved: list[int] = []
        """Bytes of each copy, in order."""
        self.uploads: dict[int, list[NDArray[Any]]] = {}
        """What the queue of each stream will read from pinned memory."""
        self.queues: dict[int, list[Work]] = {}
        """Work of each stream that waits to be done, as if the GPU did none before somebody waits for it."""
        self.recordings: dict[int, list[Work]] = {}
        self.recorded: dict[int, list[Work]] = {}
        self.last_error = ""
        """As CUDA keeps it: of the last call that failed, until ``clear_error``."""
        self._handles = itertools.count(0x1000, 0x1000)

    @property
    def recording(self) -> bool:
        return bool(self.recordings)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        before = current_gpu()
        _thread.gpu = self.index
        try:
            yield
        finally:
            _thread.gpu = before

    def _call(self, name: str) -> None:
        self.calls.append(name)
        assert current_gpu() == self.index, f"{name}: works on GPU {current_gpu()}, the current one of this thread"
        if self.lost:
            raise UnavailableError(f"{name}: the GPU stopped working in this process", "start again")
        if len(self.calls) - 1 == self.fail_at:
            self.last_error = "cudaErrorFake"
            raise UnavailableError(f"{name}: cudaErrorFake (injected)")

    def _made(self, kind: str) -> int:
        handle = next(self._handles)
        self.live.add((kind, handle))
        return handle

    def enqueue(self, work: Work, stream: int) -> None:
        assert ("stream", stream) in self.live
        self.recordings.get(stream, self.queues.setdefault(stream, [])).append(work)

    def allocate(self, nbytes: int) -> int:
        self._call("allocate")
        pointer = self._made("memory")
        self.memory[pointer] = bytearray(nbytes)
        return pointer

    def free(self, pointer: int) -> None:
        self._call("free")
        self.live.remove(("memory", pointer))
        del self.memory[pointer]

    def memory_info(self) -> tuple[int, int]:
        self._call("memory_info")
        return 1 << 30, 2 << 30

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        self._call("allocate_pinned")
        array = np.full(nbytes, 0xAB, np.uint8)
        self.live.add(("pinned", id(array)))
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        self._call("free_pinned")
        waiting = [source for sources in self.uploads.values() for source in sources]
        assert not any(np.shares_memory(array, source) for source in waiting), "a copy would read freed memory"
        array[:] = 0xDD  # whoever still reads it gets wrong pixels
        self.live.remove(("pinned", id(array)))

    def create_stream(self) -> int:
        self._call("create_stream")
        return self._made("stream")

    def destroy_stream(self, stream: int) -> None:
        self._call("destroy_stream")
        self.live.remove(("stream", stream))

    def upload(self, pointer: int, source: NDArray[Any], stream: int) -> None:
        self._call("upload")

        def work() -> None:
            self.memory[pointer][: source.nbytes] = source.tobytes()
            self.moved.append(source.nbytes)

        self.uploads.setdefault(stream, []).append(source)
        self.enqueue(work, stream)

    def download(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        self._call("download")

        def work() -> None:
            target.view(np.uint8).reshape(-1)[:] = np.frombuffer(self.memory[pointer], np.uint8, target.nbytes)
            self.moved.append(target.nbytes)

        self.enqueue(work, stream)

    def synchronize(self, stream: int) -> None:
        self._call("synchronize")
        assert stream not in self.recordings, "CUDA forbids waiting for a stream that is being captured"
        self.uploads.pop(stream, None)
        for work in self.queues.pop(stream, []):
            work()

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        self.recordings[stream] = []

    def end_capture(self, stream: int) -> int:
        recorded = self.recordings.pop(stream, None)
        self._call("end_capture")
        if recorded is None:
            self.last_error = "cudaErrorIllegalState"
            raise UnavailableError("end_capture: cudaErrorIllegalState")
        graph = self._made("graph")
        self.recorded[graph] = recorded
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call("launch")
        self.queues.setdefault(stream, []).extend(self.recorded[graph])

    def destroy_graph(self, graph: int) -> None:
        self._call("destroy_graph")
        self.live.remove(("graph", graph))
        del self.recorded[graph]

    def clear_error(self) -> None:
        self.last_error = ""

    def close(self) -> None:
        self.calls.append("close")
