"""What a training process sets up on a CPU: OpenMP's waiting and glibc's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from tests.helpers.repository import ROOT


def printed(program: str, **environment: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise() -> None:
    program = "import training, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert printed(program) == ["PASSIVE", "False"]  # OpenMP reads it when torch is imported
    assert printed(program, OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "False"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    program = """
import resource, torch
from training.loop.device import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)  # above 32 MiB, glibc's largest block that is not mapped by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(new_pages() for _ in range(5)))
keep_freed_memory()
torch.ones(256 << 20, dtype=torch.uint8)  # room for the next, whatever small blocks settle in it meanwhile
print(min(new_pages() for _ in range(5)))
"""
    mapped_anew, kept = map(int, printed(program))
    # 16,384 pages of 4 KiB, or 32 of 2 MiB; of a block that was kept none, but the interpreter may need some.
    assert kept < mapped_anew / 4
