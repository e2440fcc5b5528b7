"""The device seam through PyCUDA (the CUDA driver API), for machines of the older stack. It has no CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError


class PycudaDevice:
    """The first CUDA device; see ``device.Device``."""

    graphs = False

    def __init__(self) -> None:
        with _named("cuInit"):
            cuda.init()
            device = cuda.Device(0)
            # TensorRT works in the primary context; memory of any other would be foreign to it.
            self._context = device.retain_primary_context()
        self.capability = "sm{}{}".format(*device.compute_capability())
        self.name = f"GPU {self.capability} through PyCUDA"
        # PyCUDA frees with the object, so an object is kept for each handle that we gave out.
        self._kept: dict[int, Any] = {}

    @contextlib.contextmanager
    def _current(self, call: str) -> Iterator[None]:
        # A context is current for one thread; the caller's thread may be another each time.
        with _named(call):
            self._context.push()
            try:
                yield
            finally:
                cuda.Context.pop()

    def allocate(self, nbytes: int) -> int:
        with self._current("cuMemAlloc"):
            return self._keep(cuda.mem_alloc(nbytes))

    def free(self, pointer: int) -> None:
        with self._current("cuMemFree"):
            self._kept.pop(pointer).free()

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self._current("cuMemAllocHost"):
            array: NDArray[np.uint8] = cuda.pagelocked_empty(nbytes, np.uint8)
            return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        with self._current("cuMemFreeHost"):
            array.base.free()  # type: ignore[union-attr]  # the base is PyCUDA's own allocation object

    def create_stream(self) -> int:
        with self._current("cuStreamCreate"):
            stream = cuda.Stream()
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

    def begin_capture(self, stream: int) -> None:
        _no_graphs()

    def end_capture(self, stream: int) -> int:
        _no_graphs()

    def launch(self, graph: int, stream: int) -> None:
        _no_graphs()

    def destroy_graph(self, graph: int) -> None:
        _no_graphs()

    def clear_error(self) -> None:
        """Nothing to forget: only the runtime API keeps a last error."""

    def close(self) -> None:
        if self._context is not None:
            self._context.detach()
            self._context = None

    def _keep(self, allocation: Any) -> int:
        self._kept[int(allocation)] = allocation
        return int(allocation)


@contextlib.contextmanager
def _named(call: str) -> Iterator[None]:
    try:
        yield
    except cuda.Error as exc:
        raise UnavailableError(f"{call}: {exc}; check nvidia-smi and the driver's version") from exc


def _no_graphs() -> NoReturn:
    raise UnavailableError("PyCUDA has no CUDA graphs; pip install cuda-python")
