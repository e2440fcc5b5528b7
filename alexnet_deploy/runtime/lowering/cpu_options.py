"""Session options with which ONNX Runtime multiplies integers exactly, whatever the processor."""

from __future__ import annotations

from collections.abc import Collection

from alexnet_deploy.machine.cpu import cpu_flags

_SUM_IN_32_BITS = frozenset(("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
"""Instruction sets that add up products of bytes in 32 bits. Older x86 processors do so by pairs in 16 bits, where
255 x 127 x 2 becomes 32767."""


def exact_integers(precision: str, flags: Collection[str] | None = None) -> dict[str, str]:
    """Config entries of a session on the CPU for an engine of ``precision``; ``flags``: of the processor (None: read).

    With this entry ONNX Runtime makes uint8 of int8 weights, whose kernels add up in 32 bits and are slower. It does
    nothing on ARM. Where Linux does not name the instruction sets, exact comes before fast.
    """
    if not precision.startswith("int8"):
        return {}
    found = cpu_flags() if flags is None else flags
    return {} if _SUM_IN_32_BITS & set(found) else {"session.x64quantprecision": "1"}
