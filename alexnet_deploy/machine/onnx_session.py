"""A session of ONNX Runtime: opened here alone, so that no caller forgets what must be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

from alexnet_deploy.files import text_path

_UNSOUND_OPTIMIZERS = ("WeightBiasQuantization",)
"""Optimisations that change the function, at every level. This one computes int32 bias scales in float16, where they
underflow: up to all answers of an int8+fp16 engine are wrong (measured with 1.32)."""


def open_session(onnx_path: Path, options: ort.SessionOptions, provider: str = "CPUExecutionProvider") -> Any:
    """The model in a session; raises what ONNX Runtime raises, whose exceptions share no public base."""
    with text_path(onnx_path) as name:
        return ort.InferenceSession(name, options, providers=[provider], disabled_optimizers=_UNSOUND_OPTIMIZERS)
