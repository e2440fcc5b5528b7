"""A session of ONNX Runtime: opened here alone, so that no caller forgets what must be left out."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import onnxruntime as ort

from alexnet_deploy.files import text_path

_UNSOUND_OPTIMIZERS = ("WeightBiasQuantization",)
"""Optimisations that change the function, at every level. This one computes int32 bias scales in float16, where they
underflow: up to all answers of an int8+fp16 engine are wrong (measured with 1.32)."""
_NOT_LOADED = re.compile(r"^Failed to load ([^/\s]+):", re.MULTILINE)
"""What ``preload_dlls`` prints for a library that is neither in a Python package nor where the loader looks."""


def open_session(
    model: Path | bytes,
    options: ort.SessionOptions,
    provider: str = "CPUExecutionProvider",
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """A model, a file or its content, in a session; raises what ONNX Runtime raises, which shares no public base.

    The session never moves to another provider by itself. By default an error at run time would move it to the CPU for
    good, under the name of the GPU, and print to standard output.
    """
    with nullcontext(model) if isinstance(model, bytes) else text_path(model) as name:
        return ort.InferenceSession(
            name,
            options,
            providers=[(provider, dict(provider_options or {}))],
            disabled_optimizers=_UNSOUND_OPTIMIZERS,
            enable_fallback=0,
        )


@functools.cache
def preload_cuda() -> tuple[str, ...]:
    """Load the CUDA and cuDNN that pip installed, once per process; the names of the libraries that are missing.

    Without it, the loader finds none of them unless PyTorch was imported before. What ``preload_dlls`` prints to
    standard output is read, not shown; it leaves out a missing cuDNN, which every convolution needs.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings(action="ignore"):
        ort.preload_dlls()
    # Its other messages, which no option of a session silences; ours name the cause in one line.
    ort.set_default_logger_severity(4)
    cudnn = () if _loads("libcudnn.so.9") or _loads("libcudnn.so") else ("libcudnn.so.9",)
    return (*dict.fromkeys(_NOT_LOADED.findall(said.getvalue())), *cudnn)


def built_for_cuda() -> int | None:
    """Major version of CUDA that the installed package was built for; None for a package without CUDA."""
    found = re.match(r"\d+", getattr(ort, "cuda_version", None) or "")
    return None if found is None else int(found[0])


def graph_options(graph: int | None) -> Any:
    """Options of one run that uses the CUDA graph with this number, or none."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    options.add_run_config_entry("gpu_graph_id", "-1" if graph is None else str(graph))
    return options


def _loads(library: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
