"""The device that computes, and its settings."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager

import torch

from alexnet_deploy.errors import UsageError
from alexnet_deploy.machine.cpu import cores, cpu_flags
from training.recipes.recipe import TrainingPrecision

MAX_LOADERS = 16
"""Of one training process: each takes some hundred MiB."""
_MULTIPLY_BF16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
"""Instruction sets of x86 and ARM that multiply bfloat16, as Linux names them."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def pick_device(rank: int = 0) -> torch.device:
    """CUDA, else MPS, else the CPU; of several GPUs the one that torchrun gives to this process.

    That GPU becomes the current one of the process, and cuDNN measures which of its algorithms is fastest, unless
    deterministic ones are asked for. UsageError where torchrun has started more processes than there are GPUs.
    """
    if torch.cuda.is_available():
        index, count = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if index >= count:
            raise UsageError(
                f"process {index + 1} of this machine has no GPU, torch sees {count}; start fewer (torchrun "
                f"--nproc-per-node {count}), or make more visible with CUDA_VISIBLE_DEVICES"
            )
        torch.cuda.set_device(index)  # else libraries that ask for the current one all take the first
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        return torch.device("cuda", index)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_precision() -> TrainingPrecision:
    """bf16 where the device multiplies in it; else fp16 on CUDA and fp32 on a CPU.

    Without such instructions bfloat16 is emulated: on a CPU with AVX2 a step of AlexNet takes 17 times as long as
    in float32. CUDA has them from compute capability 8.0 on, and float16 from 7.0 on.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.backends.mps.is_available() or not _MULTIPLY_BF16.isdisjoint(cpu_flags()) else "fp32"


def emulates_bf16() -> bool:
    """Whether training in bf16 would be slower than in fp32; False where the system does not say."""
    known = torch.cuda.is_available() or (not torch.backends.mps.is_available() and bool(cpu_flags()))
    return known and default_precision() != "bf16"


def loader_processes() -> int:
    """How many processes decode images by default.

    Two on a CPU, where the training itself needs the cores; for a GPU the cores that each process of torchrun has, up
    to ``MAX_LOADERS``.
    """
    if not torch.cuda.is_available():
        return 2
    return max(1, min(MAX_LOADERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def without_tf32() -> AbstractContextManager[None]:
    """Convolutions in full float32, as on a CPU: cuDNN's default rounds their inputs to TF32's 10 bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees for the next step, if its C library is glibc.

    glibc maps every block above 32 MiB separately and unmaps it when it is freed, and the kernel fills each page of a
    new mapping with zeros. A step on a CPU makes dozens of such blocks, which for ``alexnet-2012`` at batch 128 takes
    more than a third of the time. The price is fragmentation: a tenth to a fifth more memory there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # macOS and musl do not have it
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
