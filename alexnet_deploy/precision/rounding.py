"""Rounding of weights alone to int4 or int8: scales of least squared error, and the method GPTQ.

A layer multiplies rows x of its input with its weight W, ``y = x W``. Rounding W to Q changes the outputs by
``|X (W - Q)|^2 = sum over columns of (w - q)' H (w - q)`` with ``H = X' X``. Rounding each number to the nearest step
ignores H. GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds one input after the other and lets the following ones
compensate. With the Cholesky factor ``H = A' A``, A lower triangular, it is Babai's nearest plane (Chen et al. 2025,
arXiv:2507.18553): input i takes the step nearest to ``w_i + sum over j < i of A_ij (w_j - q_j) / A_ii``.

Legend: K input, N output, S block of inputs with one scale per output, n input of a segment
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SEGMENT = 1024
"""Inputs that compensate each other. Memory and time grow with its square. Calibrated on 512 images, all 9216 inputs of
AlexNet's first dense layer at once do no better on other images; for 4096 inputs 512 make half again the error."""
_DAMPING = 0.1
"""Of the mean of H's diagonal, added to it. At GPTQ's 0.01 the first dense layer fits 512 images too closely: half
again the error on others."""
_SHRINK = np.linspace(0.6, 1.0, 21)
"""Scales that are tried, as shares of the one at which nothing is clipped."""
_SMALLEST_SCALE = 2.0**-24
"""The smallest float16 above 0."""
_LARGEST = float(np.finfo(np.float16).max)
_ROWS = 128
"""Inputs that are compensated at once by a product of matrices, as in GPTQ's lazy batches."""


@dataclass(frozen=True, slots=True)
class WeightSteps:
    """The whole numbers that a weight becomes, and how many inputs share a scale (None: all)."""

    lowest: int
    highest: int
    block: int | None = None

    def spread(self, scale_SN: Float32, inputs: int) -> Float32:
        """The scale of each number, ``[K, N]``."""
        return np.repeat(scale_SN, self.block or inputs, axis=0)[:inputs]


INT4 = WeightSteps(-8, 7, 128)
INT8 = WeightSteps(-127, 127)


def best_scales(weight_KN: Float32, steps: WeightSteps, importance_K: Float32 | None = None) -> Float32:
    """The scale of each block, ``[S, N]``, at which rounding to the nearest step has the least squared error.

    Scales are float16 numbers. ``importance_K`` weighs the error of each input: the mean square of its values.
    """
    inputs, outputs = weight_KN.shape
    block = steps.block or inputs
    largest = _LARGEST / (steps.highest + 1)  # a float16, whose products with all steps are finite in float16
    found = np.empty((-(-inputs // block), outputs), np.float32)
    for number, start in enumerate(range(0, inputs, block)):
        part = weight_KN[start : start + block]
        # A dead input says nothing about its weights, and a block of them would have no best scale.
        weigh = None if importance_K is None else importance_K[start : start + block, None]
        if weigh is not None and not weigh.any():
            weigh = None
        unclipped = np.abs(part).max(axis=0) / steps.highest
        least = np.full(outputs, np.inf, np.float32)
        for share in _SHRINK[::-1]:
            scale = np.clip(unclipped * share, _SMALLEST_SCALE, largest).astype(np.float16).astype(np.float32)
            error = np.rint(part / scale)
            np.clip(error, steps.lowest, steps.highest, out=error)
            error *= scale
            error -= part
            np.square(error, out=error)
            cost = error.sum(axis=0) if weigh is None else (error * weigh).sum(axis=0)
            better = cost < least
            least[better] = cost[better]
            found[number, better] = scale[better]
    return found


def round_to_nearest(weight_KN: Float32, scale_SN: Float32, steps: WeightSteps) -> NDArray[np.int8]:
    """Each number divided by its scale, rounded and clipped."""
    scale_KN = steps.spread(scale_SN, len(weight_KN))
    return np.asarray(np.clip(np.rint(weight_KN / scale_KN), steps.lowest, steps.highest), np.int8)


def round_for_outputs(
    weight_KN: Float32, scale_SN: Float32, steps: WeightSteps, moments: Sequence[Float32]
) -> NDArray[np.int8]:
    """Rounded by GPTQ; ``moments`` are the diagonal blocks ``[n, n]`` of ``X' X``, one per segment of the inputs."""
    found_KN = np.empty(weight_KN.shape, np.int8)
    scale_KN = steps.spread(scale_SN, len(weight_KN))
    start = 0
    for moment_nn in moments:
        part = slice(start, start + len(moment_nn))
        found_KN[part] = _segment(weight_KN[part], scale_KN[part], steps, moment_nn)
        start = part.stop
    return found_KN


def _segment(weight_nN: Float32, scale_nN: Float32, steps: WeightSteps, moment_nn: Float32) -> NDArray[np.int8]:
    """One segment, the inputs of the largest values first: what they leave has the most others to compensate it."""
    power_n = np.diag(moment_nn).astype(np.float64)
    order_n = np.argsort(-power_n, kind="stable")
    if not power_n.any():
        moment_nn = np.eye(len(order_n), dtype=np.float32)  # no value reached the layer: the nearest step is as good
    damped_nn = moment_nn[np.ix_(order_n, order_n)].astype(np.float64)
    damped_nn[np.diag_indices_from(damped_nn)] += _DAMPING * np.trace(damped_nn) / len(damped_nn)
    # NumPy's factor is H = L L'. Of H read backwards, and read backwards itself, it is H = A' A.
    factor_nn = np.ascontiguousarray(np.linalg.cholesky(damped_nn[::-1, ::-1])[::-1, ::-1].T)
    compensate_nn = (factor_nn / np.diag(factor_nn)[:, None]).astype(np.float32)
    weight_nN, scale_nN = weight_nN[order_n], scale_nN[order_n]
    rounded_nN = np.empty_like(weight_nN)
    error_nN = np.zeros_like(weight_nN)
    for first in range(0, len(order_n), _ROWS):
        rows = range(first, min(first + _ROWS, len(order_n)))
        earlier = compensate_nn[rows.start : rows.stop, :first] @ error_nN[:first]
        for i in rows:
            wanted = weight_nN[i] + earlier[i - first] + compensate_nn[i, first:i] @ error_nN[first:i]
            rounded_nN[i] = np.clip(np.rint(wanted / scale_nN[i]), steps.lowest, steps.highest)
            error_nN[i] = weight_nN[i] - rounded_nN[i] * scale_nN[i]
    found_nN = np.empty(weight_nN.shape, np.int8)
    found_nN[order_n] = rounded_nN.astype(np.int8)
    return found_nN
