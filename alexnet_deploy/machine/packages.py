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


def installed_cuda() -> frozenset[int]:
    """Major versions of the CUDA whose libraries pip installed. NVIDIA names the version in the package up to 12."""
    from importlib import metadata

    found = set()
    for name, major in (("nvidia-cublas-cu11", 11), ("nvidia-cublas-cu12", 12), ("nvidia-cublas", None)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            found.add(int(version.partition(".")[0]) if major is None else major)
    return frozenset(found)
