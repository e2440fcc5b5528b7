"""The processor: its name, its features, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

_SUM_BYTES_IN_32_BITS = frozenset(("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
_X86 = frozenset(("x86_64", "amd64", "i386", "i686"))


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


def saturates_int8(flags: Collection[str] | None = None) -> bool:
    """Whether the usual int8 kernels can overflow on a processor with ``flags`` (None: on this one).

    Without VNNI (Intel before 2019, AMD before Zen 4), x86 processors add up products of bytes by pairs in 16 bits,
    where 255 x 127 x 2 becomes 32767. Where the system does not name the instruction sets, exact comes before fast.
    """
    found = cpu_flags() if flags is None else flags
    return platform.machine().lower() in _X86 and _SUM_BYTES_IN_32_BITS.isdisjoint(found)


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
