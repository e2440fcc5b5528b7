"""The processor: its name, its features, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the cores that this process may use; containers often grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(usable_cpus())


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name for people."""
    return _cpuinfo(root, "model name") or platform.processor() or platform.machine()


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets by their name in Linux, such as ``avx512_vnni``; empty on another system."""
    return frozenset(_cpuinfo(root, "flags|Features").split())


def describe_machine(root: Path = Path("/")) -> dict[str, str | int]:
    """What must be recorded with a measurement: processor, usable cores, system."""
    return {
        "cpu": cpu_model(root),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpuinfo(root: Path, field: str) -> str:
    found = re.search(rf"^(?:{field})\s*:\s*(.+)$", kernel_text(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else ""


def kernel_text(path: Path) -> str:
    """The content of the kernel's file ``path``; empty if the file does not exist."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or a sandbox that hides it
        return ""
