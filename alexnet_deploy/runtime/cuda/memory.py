"""Memory of a device that is given back with an ExitStack."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.runtime.cuda.device import Device


def pinned(device: Device, resources: ExitStack, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
    """An array in page-locked memory of the host, freed with ``resources``: no view of it may outlive them."""
    memory = device.allocate_pinned(math.prod(shape) * np.dtype(dtype).itemsize)
    resources.callback(device.free_pinned, memory)
    return np.ndarray(shape, dtype, buffer=memory)


def allocated(device: Device, resources: ExitStack, nbytes: int) -> int:
    """The address of memory on the device, freed with ``resources``."""
    pointer = device.allocate(nbytes)
    resources.callback(device.free, pointer)
    return pointer
