"""The ways to compute that a run compares, and how a pass prints what it found."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.gpu.parts import MARK

OURS = {"TensorRT": "tensorrt", "ONNX Runtime CUDA": "onnxruntime-cuda", "ONNX Runtime CPU": "onnxruntime"}
TORCH = {"torch eager": "eager", "torch.compile": "compile", "torch CUDA graph": "cuda-graph"}
STAND_INS = {"tensorrt": "openvino", "onnxruntime-cuda": "onnxruntime"}
"""What runs in their place in a dry run."""


def tell(**found: Any) -> None:
    """Print a line for ``parts``: ``ran``, ``cases`` or ``failed``."""
    print(MARK + json.dumps(found), flush=True)


def runtime_of(way: str, device: str) -> str:
    """The value of ``--runtime`` for a way."""
    return OURS[way] if device == "cuda" else STAND_INS.get(OURS[way], OURS[way])
