"""``cuda.Device`` through PyCUDA (the CUDA driver API), for machines with older drivers. It has no CUDA graphs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.errors import Memory, gpu_error

_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING`` of CUDA's driver API, which PyCUDA takes as a number: the stream does not wait for the
default stream, nor that one for it."""


class PycudaDevice:
    """One CUDA device; see ``cuda.Device``."""

    graphs = False

    def __init__(self, index: int = 0) -> None:
        self.index = index
        with _named("cuInit"):
            cuda.init()
            self.count = int(cuda.Device.count())
            self.capability = "sm{}{}".format(*cuda.Device(index).compute_capability())
            self.card = str(cuda.Device(index).name())
        self.name = f"GPU {self.capability} through PyCUDA"
        # PyCUDA frees memory with its object, so the object of each handle in use is kept.
        self._kept: dict[int, Any] = {}

    @contextlib.contextmanager
    def _current(self, call: str, needed: int | None = None) -> Iterator[None]:
        # A context is current for one thread, and each call may come from another one.
        with _named(call, needed, self.index):
            _primary_context(self.index).push()
            try:
                yield
            finally:
                cuda.Context.pop()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        with _named("cuCtxPushCurrent"):
            _primary_context(self.index).push()
        try:
            yield
        finally:
            with contextlib.suppress(cuda.Error):  # of a GPU that is lost, after an error that says so
                cuda.Context.pop()

    def allocate(self, nbytes: int) -> int:
        with self._current("cuMemAlloc", needed=nbytes):
            return self._keep(cuda.mem_alloc(nbytes))

    def free(self, pointer: int) -> None:
        with self._current("cuMemFree"):
            self._kept.pop(pointer).free()

    def memory_info(self) -> Memory:
        with self._current("cuMemGetInfo"):
            free, total = cuda.mem_get_info()
            return int(free), int(total)

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self._current("cuMemAllocHost"):
            array: NDArray[np.uint8] = cuda.pagelocked_empty(nbytes, np.uint8)
            return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        with self._current("cuMemFreeHost"):
            array.base.free()  # type: ignore[union-attr]  # the base is PyCUDA's own allocation object

    def create_stream(self) -> int:
        with self._current("cuStreamCreate"):
            stream = cuda.Stream(_NON_BLOCKING)
            self._kept[stream.handle] = stream
            return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        with self._current("cuStreamDestroy"):
            del self._kept[stream]

    def upload(self, pointer: int, source: NDArray[Any], stream: int) -> None:
        with self._current("cuMemcpyHtoDAsync"):
            cuda.memcpy_htod_async(pointer, source, self._kept[stream])

    def download(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        with self._current("cuMemcpyDtoHAsync"):
            cuda.memcpy_dtoh_async(target, pointer, self._kept[stream])

    def synchronize(self, stream: int) -> None:
        with self._current("cuStreamSynchronize"):
            self._kept[stream].synchronize()

    def _no_graphs(self, *arguments: int) -> NoReturn:
        raise UnavailableError("PyCUDA has no CUDA graphs; pip install cuda-python")

    begin_capture = end_capture = launch = destroy_graph = _no_graphs

    def clear_error(self) -> None:
        """Nothing to clear: only the runtime API keeps a last error."""

    def close(self) -> None:
        """Nothing to release: the primary context belongs to the process (``_primary_context``)."""

    def _keep(self, allocation: Any) -> int:
        self._kept[int(allocation)] = allocation
        return int(allocation)


@functools.cache
def _primary_context(index: int) -> Any:
    """The primary context of a device, retained once per process; TensorRT cannot use memory of another one.

    It is never detached: PyCUDA makes a context current in order to release it and then leaves it current, so that the
    next library of this thread would work in a context that is gone. CUDA's runtime API keeps it as well.
    """
    return cuda.Device(index).retain_primary_context()


@contextlib.contextmanager
def _named(call: str, needed: int | None = None, index: int = 0) -> Iterator[None]:
    """Errors as UnavailableError with their cause; ``needed`` is the device memory that ``call`` asks for, in bytes."""
    try:
        yield
    except cuda.Error as exc:
        raise gpu_error(call, exc, needed=needed, memory=lambda: _free_and_total(index)) or UnavailableError(
            f"{call}: {exc}", fix="check nvidia-smi and the driver's version"
        ) from exc


def _free_and_total(index: int) -> Memory | None:
    """For the text of an error: no error of its own."""
    try:
        context = _primary_context(index)
        context.push()
        try:
            free, total = cuda.mem_get_info()
        finally:
            cuda.Context.pop()
    except cuda.Error:
        return None
    return int(free), int(total)
