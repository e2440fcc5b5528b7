"""Where the arithmetic runs."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def pick_device(rank: int = 0) -> torch.device:
    """CUDA, else MPS, else the CPU; of several GPUs the one that torchrun gives to this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def whole_float32() -> AbstractContextManager[None]:
    """Convolutions in float32 as a CPU has it: cuDNN's default rounds what they multiply to TF32's 10 bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees for the next step, where its C library is glibc.

    glibc maps every block above 32 MiB anew and unmaps it when it is freed, and the kernel fills each page of a new
    mapping with zeros. A step on a CPU makes dozens of such blocks: of ``alexnet-2012`` at batch 128 that is more than
    a third of the time. The price is what fragments: a tenth to a fifth more memory there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # macOS and musl have none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
