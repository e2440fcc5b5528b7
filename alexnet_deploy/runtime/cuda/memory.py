"""Memory of a device that is given back with an ExitStack, and page-locked memory that others fill for a call."""

from __future__ import annotations

import contextlib
import logging
import math
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.captures import allocating
from alexnet_deploy.runtime.cuda.device import Device

_log = logging.getLogger(__name__)

MOST_SHARED = 1 << 30
"""Bytes: page-locked memory cannot be swapped out, and too much of it slows the whole machine."""
_shared: dict[int, int] = {}
"""Address and bytes of page-locked memory that is filled outside a runner. CUDA copies from it to any GPU."""


def pinned(device: Device, resources: ExitStack, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
    """An array in page-locked memory of the host, freed with ``resources``: no view of it may outlive them."""
    with allocating():
        memory = device.allocate_pinned(math.prod(shape) * np.dtype(dtype).itemsize)
    resources.callback(device.free_pinned, memory)
    return np.ndarray(shape, dtype, buffer=memory)


def allocated(device: Device, resources: ExitStack, nbytes: int) -> int:
    """The address of memory on the device, freed with ``resources``."""
    with allocating():
        pointer = device.allocate(nbytes)
    resources.callback(device.free, pointer)
    return pointer


def shared_pixels(device: Device, resources: ExitStack, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Page-locked memory that others fill and a GPU copies as it is (``is_shared``), freed with ``resources``.

    A call has read it when it returns or raises. Ordinary memory, which a runner copies first, where too much is
    page-locked already or the system refuses more.
    """
    nbytes = math.prod(shape)
    if sum(_shared.values()) + nbytes > MOST_SHARED:
        return np.empty(shape, np.uint8)
    try:
        with allocating(), device.current():
            memory = device.allocate_pinned(nbytes)
    except UnavailableError as exc:
        _log.info("pixels are not decoded into page-locked memory: %s", exc)
        device.clear_error()
        return np.empty(shape, np.uint8)
    address = memory.ctypes.data

    def free() -> None:
        del _shared[address]
        with (
            contextlib.suppress(UnavailableError),
            allocating(),
            device.current(),
        ):  # of a GPU that is lost, after its own error
            device.free_pinned(memory)

    _shared[address] = nbytes
    resources.callback(free)
    return np.ndarray(shape, np.uint8, buffer=memory)


def is_shared(array: NDArray[np.uint8]) -> bool:
    """Whether the whole of ``array`` lies in memory of ``shared_pixels``, in one piece."""
    first = array.__array_interface__["data"][0]
    return array.flags.c_contiguous and any(
        start <= first and first + array.nbytes <= start + nbytes for start, nbytes in list(_shared.items())
    )
