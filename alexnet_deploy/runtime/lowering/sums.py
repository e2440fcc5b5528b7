"""The int32 sums of an integer layer: its bias in whole steps, and whether bias and products fit for every input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Legend: O output channel

_LARGEST_SUM = np.iinfo(np.int32).max
_LARGEST_STORED = np.iinfo(np.uint8).max


def fits_int32(
    weight: NDArray[np.int8], zero_w: int, axis: int, zero_x: int, steps_O: NDArray[np.float64] | None
) -> bool:
    """Whether the sums of a layer stay within int32, whatever uint8 numbers with the zero point ``zero_x`` it reads.

    ``weight`` has one zero point for all, ``axis`` is that of the outputs, ``steps_O`` the bias (None: there is none).
    ONNX Runtime adds up the stored numbers times the weights, takes off the parts of the zero points, and then adds the
    bias. Some of its instructions stop at the ends of int32 and others wrap around, so each sum on the way must
    fit as well.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight.astype(np.int64)) + abs(zero_w)
    products_O = largest.sum(axis=others) * (_LARGEST_STORED + zero_x)
    total_O = products_O if steps_O is None else products_O + np.abs(steps_O)
    return bool(np.all(total_O <= _LARGEST_SUM))  # False for NaN


def bias_steps(
    bias_O: NDArray[np.float64], scale_x: NDArray[np.float32], scale_w: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
    """A bias in whole steps of its sums, and the step of each output; None where a step is too small for float32."""
    step_O = np.broadcast_to(scale_x.reshape(-1) * scale_w.reshape(-1), bias_O.shape)
    if not np.all(step_O):
        return None
    return np.rint(bias_O / step_O), np.ascontiguousarray(step_O)
