"""``cuda.Device`` through cuda-python (the CUDA runtime API): the first choice, since it has CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from cuda.bindings import driver
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.errors import Memory, gpu_error

_NAME_BYTES = 256
"""Room for the name of a GPU, which CUDA fills up with zeros."""


class CudaVersions(NamedTuple):
    """In CUDA's notation: 13050 is 13.5."""

    driver: int
    """The newest CUDA that the driver supports; 0 without a driver."""
    runtime: int
    """Of cuda-python."""


def cuda_versions() -> CudaVersions:
    """Both versions; works without a GPU."""
    return CudaVersions(int(_call("cudaDriverGetVersion")), int(_call("cudaRuntimeGetVersion")))


class CudartDevice:
    """One CUDA device; see ``cuda.Device``."""

    graphs = True

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.count = int(_call("cudaGetDeviceCount"))
        if self.count == 0:
            raise UnavailableError("no CUDA device is visible", fix="check nvidia-smi and CUDA_VISIBLE_DEVICES")
        attributes = cudart.cudaDeviceAttr
        major = _call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, index)
        minor = _call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, index)
        self.capability = f"sm{major}{minor}"
        self.name = f"GPU {self.capability} through cuda-python"
        _driver_call("cuInit", 0)
        name = _driver_call("cuDeviceGetName", _NAME_BYTES, _driver_call("cuDeviceGet", index))
        self.card = name.split(b"\0")[0].decode(errors="replace")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        # Not by cudaSetDevice: to go back to GPU 0 it would make a context there, which takes memory of a GPU that
        # this process may never use. The runtime API works in the context that the driver API makes current.
        _driver_call("cuCtxPushCurrent", _primary_context(self.index))
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()  # not by _driver_call: after the error of a lost GPU it may return that error

    def allocate(self, nbytes: int) -> int:
        return int(_call("cudaMalloc", nbytes, needed=nbytes))

    def free(self, pointer: int) -> None:
        _call("cudaFree", pointer)

    def memory_info(self) -> Memory:
        free, total = _results("cudaMemGetInfo")
        return int(free), int(total)

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        address = int(_call("cudaMallocHost", nbytes))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        _call("cudaFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        return int(_call("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        _call("cudaStreamDestroy", stream)

    def upload(self, pointer: int, source: NDArray[Any], stream: int) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call("cudaMemcpyAsync", pointer, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("cudaMemcpyAsync", target.ctypes.data, pointer, target.nbytes, kind, stream)

    def synchronize(self, stream: int) -> None:
        _call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: another thread's allocation (a decoder's, say) must not spoil the capture.
        _call("cudaStreamBeginCapture", stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> int:
        template = _call("cudaStreamEndCapture", stream)
        try:
            return int(_call("cudaGraphInstantiate", template, 0))
        finally:
            _call("cudaGraphDestroy", template)

    def launch(self, graph: int, stream: int) -> None:
        _call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        _call("cudaGraphExecDestroy", graph)

    def clear_error(self) -> None:
        cudart.cudaGetLastError()  # not by _call: its result is the error that it clears

    def close(self) -> None:
        """Nothing to release: the runtime API's context belongs to the process."""


@functools.cache
def _primary_context(index: int) -> Any:
    """The context that the runtime API has on a GPU; kept until the process ends, as the runtime API keeps it."""
    _driver_call("cuInit", 0)
    return _driver_call("cuDevicePrimaryCtxRetain", _driver_call("cuDeviceGet", index))


def _driver_call(function: str, *args: Any) -> Any:
    """The one result of a function of the driver API, or UnavailableError with the name and the cause of its error."""
    found: tuple[Any, ...] = getattr(driver, function)(*args)
    error, *results = found
    if error != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorName(error)
        _, text = driver.cuGetErrorString(error)
        said = f"{name.decode()} ({text.decode()})"
        raise gpu_error(function, said) or UnavailableError(
            f"{function}: {said}", fix="check nvidia-smi and the driver's version"
        )
    return results[0] if results else None


def _call(function: str, *args: Any, needed: int | None = None) -> Any:
    """The one result of ``cudart.<function>``; raises as ``_results`` does."""
    results = _results(function, *args, needed=needed)
    return results[0] if results else None


def _results(function: str, *args: Any, needed: int | None = None) -> list[Any]:
    """What ``cudart.<function>`` returns, or UnavailableError with the name and the cause of CUDA's error.

    ``needed`` is the device memory that it asks for, in bytes.
    """
    found: tuple[Any, ...] = getattr(cudart, function)(*args)
    error, *results = found
    if error != cudart.cudaError_t.cudaSuccess:
        _, name = cudart.cudaGetErrorName(error)
        _, text = cudart.cudaGetErrorString(error)
        said = f"{name.decode()} ({text.decode()})"
        raise gpu_error(function, said, needed=needed, memory=_free_and_total) or UnavailableError(
            f"{function}: {said}", fix="check nvidia-smi and the driver's version"
        )
    return results


def _free_and_total() -> Memory | None:
    """For the text of an error: no error of its own."""
    error, *found = cudart.cudaMemGetInfo()
    return (int(found[0]), int(found[1])) if error == cudart.cudaError_t.cudaSuccess else None
