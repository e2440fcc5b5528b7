"""A roofline of small kernels: the real one takes seconds."""

from __future__ import annotations

import functools

import pytest

from alexnet_deploy.profiling.layers import roofline
from alexnet_deploy.profiling.layers.peak_models import PeakModel

SMALL = (
    PeakModel("Gemm", (32, 64), (48, 64), (32, 48), "transB = 1"),
    PeakModel("Conv", (1, 16, 8, 8), (16, 16, 3, 3), (1, 16, 8, 8), "pads = [1, 1, 1, 1]"),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of small kernels and streams of a MiB, measured anew."""
    for name in ("measured_peak", "measured_bandwidth"):
        monkeypatch.setattr(roofline, name, functools.cache(getattr(roofline, name).__wrapped__))
    monkeypatch.setattr(roofline, "PEAK_MODELS", SMALL)
    monkeypatch.setattr(roofline, "PEAK_CALLS", 10)
    monkeypatch.setattr(roofline, "STREAM_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "cache_bytes", lambda: 1 << 18)
