"""Each test begins as in a process of its own: ONNX Runtime captures no graph while another engine uses a GPU."""

from __future__ import annotations

import gc

import pytest

from alexnet_deploy.runtime.cuda import captures


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that other tests did not close do not count."""
    if captures._users:
        gc.collect()
        monkeypatch.setattr(captures, "_users", 0)
