"""A session of ONNX Runtime: opened here alone, so that no caller forgets what must be left out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import onnxruntime as ort

from alexnet_deploy.files import text_path

_UNSOUND_OPTIMIZERS = ("WeightBiasQuantization",)
"""Optimisations that change the function, at every level. This one computes int32 bias scales in float16, where they
underflow: up to all answers of an int8+fp16 engine are wrong (measured with 1.32)."""


def open_session(model: Path | bytes, options: ort.SessionOptions, provider: str = "CPUExecutionProvider") -> Any:
    """A model, a file or its content, in a session; raises what ONNX Runtime raises, which shares no public base."""
    with nullcontext(model) if isinstance(model, bytes) else text_path(model) as name:
        return ort.InferenceSession(name, options, providers=[provider], disabled_optimizers=_UNSOUND_OPTIMIZERS)
