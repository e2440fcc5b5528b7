"""A machine with TensorRT-RTX and no GPU, whatever this one has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alexnet_deploy.build import targets
from alexnet_deploy.runtime.tensorrt import library as tensorrt_library
from alexnet_deploy.runtime.tensorrt.library import RTX, TensorRT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it for another one: with a GPU of a compute capability, a full TensorRT, or without TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")

    def is_(capability: str | None, full: TensorRT | None = None, rtx: bool = True) -> None:
        libraries = ({"tensorrt": full} if full else {}) | ({RTX: tensorrt_library.load(RTX)} if rtx else {})
        monkeypatch.setattr(targets, "current_capability", lambda: capability)
        monkeypatch.setattr(targets, "installed", lambda: libraries)

    is_(None)
    return is_
