"""Where the arithmetic runs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch


def pick_device(rank: int = 0) -> torch.device:
    """CUDA, else MPS, else the CPU; of several GPUs the one that torchrun gives to this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def whole_float32() -> AbstractContextManager[None]:
    """Convolutions in float32 as a CPU has it: cuDNN's default rounds what they multiply to TF32's 10 bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
