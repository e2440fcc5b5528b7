"""Versions of installed packages, without importing them."""

from __future__ import annotations

import contextlib


def onnxruntime_version() -> str | None:
    """The version of the installed ONNX Runtime, for the CPU or for CUDA; None without one. Its import takes 50 ms."""
    from importlib import metadata  # some 15 ms

    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None
