"""The threshold that each calibration method chooses for a tensor: the magnitude at which int8 or fp8 clips."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.precision.types import Method

BINS = 2048
"""TensorRT's entropy calibrator used 2048; with onnxruntime's default of 128 bins, entropy cannot differ from max."""
PERCENTILE = 99.99
"""NVIDIA's integer quantization study (Wu et al. 2020, arXiv:2004.09602) finds 99.99 to 99.999 best for CNNs."""
LEVELS = 128
"""Magnitudes of a symmetric int8: 0..127."""
MOST_ERROR = 10.0
"""How much larger than the least squared error that of a threshold by entropy may be: 10 dB. Nine of the ten tensors of
the shipped network are below by themselves."""
ROUGHLY = 1e-9
"""How far ``_all_divergences`` may be from ``_divergence``: thousands of times their rounding, some 1e-13."""
EMPTY = 1e-12
"""Stands for a probability of 0 where clipped mass fell on an empty bin: a large cost, not an infinite one."""


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The range of one tensor over all calibration images."""

    lowest: float
    highest: float
    histogram: NDArray[np.int64] | None
    """Counts of magnitudes in ``BINS`` equal bins over ``0..largest``; None if not measured."""

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.lowest), abs(self.highest))


def threshold(histogram: NDArray[np.int64] | None, largest: float, method: Method) -> float:
    """Choose where to clip, from a histogram of magnitudes in equal bins over ``0..largest``."""
    if method == "max":
        return largest
    if histogram is None:
        raise ValueError(f"method {method} needs a histogram")
    if method == "percentile":
        share = np.cumsum(histogram) / histogram.sum()
        return float(largest * (np.searchsorted(share, PERCENTILE / 100) + 1) / len(histogram))
    stops = range(LEVELS, len(histogram) + 1)
    if method == "mse":
        return largest * min(stops, key=lambda stop: _squared_error(histogram, stop)) / len(histogram)
    return largest * _entropy_stop(histogram, stops) / len(histogram)


def _entropy_stop(histogram: NDArray[np.int64], stops: range) -> int:
    """The stop of the smallest divergence, of those whose squared error is at most ``MOST_ERROR`` times the least.

    The divergence alone would clip nearly all of a tensor without values near 0, and all beyond a frequent value that
    is not 0 (the black of normalised pixels, the lower bound of an ELU): to it, one bin that holds all is no loss.
    """
    divergences = _all_divergences(histogram)
    errors = [_squared_error(histogram, stop) for stop in stops]
    most = MOST_ERROR * min(errors)
    allowed = (i for i in np.argsort(divergences, kind="stable") if errors[i] <= most)
    best = next(allowed)
    near = [best, *takewhile(lambda i: divergences[i] <= divergences[best] + ROUGHLY, allowed)]
    return stops[min(near, key=lambda i: (_divergence(histogram, stops[i]), i))]


def _divergence(histogram: NDArray[np.int64], stop: int) -> float:
    """KL divergence between the clipped distribution and its quantisation to 128 levels.

    Migacz, "8-bit Inference with TensorRT", GTC 2017. Counts beyond ``stop`` are added to the last bin. The mass of
    each level is spread evenly over its bins that are not empty. Zeros, which a ReLU makes by the million, are exact
    at any scale, so the first bin is left out.
    """
    reference = histogram[1:stop].astype(np.float64)
    source = reference.copy()
    reference[-1] += histogram[stop:].sum()
    if reference.sum() == 0 or source.sum() == 0:
        return np.inf
    level = np.arange(stop - 1) * LEVELS // (stop - 1)
    held = source > 0
    mass = np.bincount(level, source, LEVELS)
    spread = np.bincount(level, held, LEVELS)
    quantised = np.where(held, (mass / np.maximum(spread, 1))[level], 0.0)
    p, q = reference / reference.sum(), quantised / quantised.sum()
    if np.any((p > 0) & (q == 0)):
        q = np.where(q == 0, EMPTY, q)
    inside = p > 0
    return float(np.sum(p[inside] * np.log(p[inside] / q[inside])))


def _all_divergences(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    """``_divergence`` at every stop from ``LEVELS``, but for rounding, in a twentieth of the time.

    All bins of a level share one q, so sums over levels do, and they are differences of running sums.
    """
    counts = histogram[1:].astype(np.float64)
    kept_bins = np.arange(LEVELS - 1, len(counts) + 1)
    mass_before, own_before = _before(counts), _before(_times_log(counts))
    held_before = _before((counts > 0).astype(np.float64))
    kept, last = mass_before[kept_bins], counts[kept_bins - 1]
    beyond = mass_before[-1] - kept
    first_of_level = -(-np.arange(LEVELS + 1) * kept_bins[:, None] // LEVELS)
    mass, held = np.diff(mass_before[first_of_level]), np.diff(held_before[first_of_level])
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing is kept: infinite, below
        q = mass / np.maximum(held, 1) / kept[:, None]
        q_last = q[np.arange(len(q)), (kept_bins - 1) * LEVELS // kept_bins]
        crossed = np.sum(mass * np.log(np.where(mass > 0, q, 1)), axis=1)
        crossed += beyond * np.log(np.where(last > 0, q_last, EMPTY))
        own = own_before[kept_bins - 1] + _times_log(last + beyond)
        costs = (own - crossed) / mass_before[-1] - np.log(mass_before[-1])
    return np.where(kept > 0, costs, np.inf)


def _before(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of all values before each index, and of all."""
    return np.concatenate([[0.0], np.cumsum(values_N)])


def _times_log(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """x log x, 0 at 0."""
    return values_N * np.log(np.where(values_N > 0, values_N, 1))


def _squared_error(histogram: NDArray[np.int64], stop: int) -> float:
    """Summed squared error of rounding the bins' centres to int8 levels with the threshold at ``stop`` bins.

    Without the first bin, which any threshold rounds to 0.
    """
    centres = np.arange(1, len(histogram)) + 0.5
    step = stop / (LEVELS - 1)
    rounded = np.minimum(np.round(centres / step), LEVELS - 1) * step
    return float(np.sum(histogram[1:] * (centres - rounded) ** 2))
