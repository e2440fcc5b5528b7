"""For tests that need a GPU: each skips with the cause."""

from __future__ import annotations

import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.device import open_device


def require_gpu() -> str:
    """The compute capability of the first GPU; without a usable one, a skip that says why."""
    try:
        device = open_device()
    except UnavailableError as exc:
        pytest.skip(f"no usable CUDA GPU: {exc}")
    device.close()
    return device.capability
