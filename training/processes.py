"""One process, or one of several that torchrun started. Without torch, which ``--help`` does not need."""

from __future__ import annotations

import os
import sys


def is_distributed() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def leads() -> bool:
    """Whether this is the only process, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def leave_group() -> bool:
    """Leave the process group if this process has joined one; whether it had."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return False
    distributed.destroy_process_group()
    return True
