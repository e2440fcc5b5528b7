"""The few CUDA calls for running a plan: through cuda-python or PyCUDA, or through a fake in the tests.

Handles (device pointers, streams, graphs) are plain integers, which both libraries and TensorRT accept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError, UsageError, one_line
from alexnet_deploy.runtime.cuda.errors import Memory, no_such_gpu

_log = logging.getLogger(__name__)


class Device(Protocol):
    """One GPU. Every method raises UnavailableError with the CUDA call that failed, and its cause.

    CUDA, and what stands on it, works on the GPU that is current for the calling thread: number 0 unless another one
    was made so. The other methods of a GPU with another number are for a block of ``current``.
    """

    index: int
    """Its number among the GPUs that CUDA shows to this process, so ``CUDA_VISIBLE_DEVICES`` is respected."""
    count: int
    """How many those are."""
    name: str
    """For people: ``GPU sm89 through cuda-python``."""
    card: str
    """The name of its model, such as ``NVIDIA L4``."""
    capability: str
    """Compute capability, such as ``"sm89"``."""
    graphs: bool
    """Whether the four methods for graphs work."""

    def current(self) -> AbstractContextManager[None]:
        """Make it the GPU of the calling thread for the length of the block, and then the one that was before."""

    def allocate(self, nbytes: int) -> int:
        """Device memory, for ``free``."""

    def free(self, pointer: int) -> None: ...

    def memory_info(self) -> Memory:
        """Free and total bytes of the GPU, for all processes."""

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, for asynchronous copies; ``free_pinned`` needs the same array."""

    def free_pinned(self, array: NDArray[np.uint8]) -> None: ...

    def create_stream(self) -> int: ...

    def destroy_stream(self, stream: int) -> None: ...

    def upload(self, pointer: int, source: NDArray[Any], stream: int) -> None:
        """Enqueue a copy of a whole pinned, contiguous array to the device."""

    def download(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        """Enqueue a copy from the device that fills a whole pinned, contiguous array."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything enqueued on ``stream`` is done."""

    def begin_capture(self, stream: int) -> None:
        """Until ``end_capture``, this thread's work on ``stream`` is recorded, not run."""

    def end_capture(self, stream: int) -> int:
        """The recorded work as a graph, for ``destroy_graph``."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...

    def clear_error(self) -> None:
        """Clear the error of a call that was allowed to fail; never raises.

        CUDA keeps the last one until it is read, and the next library that reads it would take it for its own.
        """

    def close(self) -> None:
        """Release the object's own resources; may be called twice."""


def open_device(index: int = 0) -> Device:
    """A GPU by its number (``CUDA_VISIBLE_DEVICES`` orders them); UnavailableError with the reason if it has none."""
    causes = []
    for library, open_ in (("cuda-python", _through_cuda_python), ("PyCUDA", _through_pycuda)):
        try:
            return open_(index)
        except ModuleNotFoundError as exc:  # not installed is a choice, not a defect
            _log.debug("%s: %s", library, exc)
        except ImportError as exc:  # PyCUDA is linked against the driver: without one it does not import
            causes.append(f"{library} does not load ({one_line(exc)})")
        except UnavailableError as exc:  # a driver may be too old for cuda-python's CUDA and new enough for PyCUDA's
            causes.append(f"{library}: {exc.cause}")
    if not causes:
        raise UnavailableError("neither cuda-python nor PyCUDA is installed", fix="pip install cuda-python")
    if (hidden := no_such_gpu()) is not None:
        raise UnavailableError(hidden, fix="set CUDA_VISIBLE_DEVICES to one of them, or unset it")
    raise UnavailableError(", ".join(causes), fix="check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version")


def _through_cuda_python(index: int) -> Device:
    from alexnet_deploy.runtime.cuda.cuda_python import CudartDevice

    return CudartDevice(index)


def _through_pycuda(index: int) -> Device:
    from alexnet_deploy.runtime.cuda.pycuda import PycudaDevice

    return PycudaDevice(index)


def choose_devices(wanted: Sequence[int] | Literal["all"]) -> tuple[int, ...]:
    """The numbers of the GPUs ``wanted``, all of which this process sees.

    Raises UsageError for no number, and for one that is negative or comes twice; UnavailableError for a GPU that is not
    there, and where none can be used, with the reason.
    """
    shown = wanted if wanted == "all" else ",".join(map(str, wanted))
    if wanted != "all":
        if not wanted or min(wanted) < 0:
            raise UsageError(f"`device` {shown}: is no GPU; give its number, such as 0")
        if len(set(wanted)) < len(wanted):
            raise UsageError(f"`device` {shown}: a GPU is named twice; name each once")
    try:
        device = open_device()
    except UnavailableError as exc:
        raise UnavailableError(f"`device` {shown}: {exc.cause}", exc.fix) from exc
    device.close()
    if wanted == "all":
        return tuple(range(device.count))
    for index in wanted:
        if index >= device.count:
            there = "1 GPU, number 0" if device.count == 1 else f"{device.count} GPUs, numbers 0 to {device.count - 1}"
            raise UnavailableError(
                f"`device` {index}: this process sees {there}",
                "choose one that is there, or check CUDA_VISIBLE_DEVICES",
            )
    return tuple(wanted)


def current_capability() -> str | None:
    """Compute capability of this machine's first GPU, or None without a usable one."""
    device = _first()
    return None if device is None else device.capability


def current_card() -> str:
    """Name of the model of this machine's first GPU; empty without a usable one."""
    device = _first()
    return "" if device is None else device.card


def _first() -> Device | None:
    """Closed: for its names."""
    try:
        device = open_device()
    except UnavailableError as exc:
        _log.debug("no GPU: %s", exc)
        return None
    device.close()
    return device


def gpu_memory(index: int = 0) -> Memory | None:
    """Free and total bytes of a GPU; None if it cannot tell."""
    try:
        device = open_device(index)
    except UnavailableError as exc:
        _log.debug("no GPU: %s", exc)
        return None
    try:
        with device.current():
            return device.memory_info()
    except UnavailableError as exc:  # a GPU that is lost answers nothing
        _log.debug("no free memory: %s", exc)
        return None
    finally:
        device.close()
