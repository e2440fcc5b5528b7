"""Session options with which ONNX Runtime multiplies integers exactly, whatever the processor."""

from __future__ import annotations

from alexnet_deploy.machine.cpu import saturates_int8


def exact_integers(precision: str) -> dict[str, str]:
    """Config entries of a session on the CPU for an engine of ``precision``.

    With this entry ONNX Runtime makes uint8 of int8 weights, whose kernels add up in 32 bits and are slower.
    """
    return {"session.x64quantprecision": "1"} if precision.startswith("int8") and saturates_int8() else {}
