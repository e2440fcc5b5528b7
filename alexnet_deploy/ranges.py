"""Value ranges of tensors over calibration images, and the threshold each method picks from them.

Two passes over the images: the first finds every tensor's largest magnitude, the second fills a histogram up to
it. Memory is one batch and one histogram a tensor, and the result does not depend on the batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.calibration import Method
from alexnet_deploy.errors import InputError

BINS = 2048
"""TensorRT's entropy calibrator used 2048; with onnxruntime's default of 128 entropy cannot differ from max."""
PERCENTILE = 99.99
"""NVIDIA's integer quantization study (Wu et al. 2020, arXiv:2004.09602) finds 99.99 to 99.999 best for CNNs."""
LEVELS = 128
"""Magnitudes of a symmetric int8: 0..127."""


def tensor_thresholds(
    model: onnx.ModelProto,
    tensors: tuple[str, ...],
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    method: Method,
) -> dict[str, float]:
    """The largest magnitude to represent, for each of ``tensors`` of a float32 ``model`` with one input.

    ``batches`` starts a pass over the same images each time it is called. Raises InputError for a tensor that is
    not finite or is zero on every image: no scale can be right for it.
    """
    with TemporaryDirectory() as folder:
        session = _session_with_outputs(model, tensors, Path(folder))
        largest = dict.fromkeys(tensors, 0.0)
        for values in _runs(session, tensors, batches):
            for name, array in values.items():
                # Not Python's max, which drops a NaN.
                largest[name] = float(np.maximum(largest[name], np.abs(array).max()))
        for name, value in largest.items():
            if not np.isfinite(value):
                raise InputError(f"calibration: tensor {name} is not finite; the model's weights are broken")
            if value == 0:
                raise InputError(f"calibration: tensor {name} is 0 on every image; the model or the images are broken")
        if method == "max":
            return largest
        histograms = {name: np.zeros(BINS, np.int64) for name in tensors}
        for values in _runs(session, tensors, batches):
            for name, array in values.items():
                histograms[name] += np.histogram(np.abs(array), BINS, (0.0, largest[name]))[0]
    return {name: threshold(histograms[name], largest[name], method) for name in tensors}


def threshold(histogram: NDArray[np.int64], largest: float, method: Method) -> float:
    """The magnitude at which to clip, from a histogram of magnitudes over ``0..largest`` in equal bins."""
    if method == "max":
        return largest
    if method == "percentile":
        share = np.cumsum(histogram) / histogram.sum()
        return float(largest * (np.searchsorted(share, PERCENTILE / 100) + 1) / len(histogram))
    cost = _divergence if method == "entropy" else _squared_error
    stops = range(LEVELS, len(histogram) + 1)
    costs = [cost(histogram, stop) for stop in stops]
    return largest * stops[int(np.argmin(costs))] / len(histogram)


def _divergence(histogram: NDArray[np.int64], stop: int) -> float:
    """KL divergence between the clipped distribution and its quantisation to 128 levels.

    Migacz, "8-bit Inference with TensorRT", GTC 2017. What lies beyond ``stop`` is added to the last bin; each
    level's mass is spread evenly over those of its bins that hold anything. Zeros, which a ReLU makes by the
    million, are exact at any scale, so the first bin is left out.
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
        q = np.where(q == 0, 1e-12, q)  # the clipped mass fell on an empty bin: a large cost, not an infinite one
    inside = p > 0
    return float(np.sum(p[inside] * np.log(p[inside] / q[inside])))


def _squared_error(histogram: NDArray[np.int64], stop: int) -> float:
    """Summed squared error of rounding the bins' centres to int8 levels with the threshold at ``stop`` bins."""
    centres = np.arange(len(histogram)) + 0.5
    step = stop / (LEVELS - 1)
    rounded = np.minimum(np.round(centres / step), LEVELS - 1) * step
    return float(np.sum(histogram * (centres - rounded) ** 2))


def _session_with_outputs(model: onnx.ModelProto, tensors: tuple[str, ...], folder: Path) -> ort.InferenceSession:
    extended = copy.deepcopy(model)
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    path = folder / "calibrated.onnx"
    onnx.save(extended, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, and told in one line
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # its exceptions share no public base
        raise InputError(
            f"calibration: ONNX Runtime refuses the model ({_reason(exc)}); export it without that"
        ) from exc


def _runs(
    session: ort.InferenceSession, tensors: tuple[str, ...], batches: Callable[[], Iterator[NDArray[np.uint8]]]
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    feed = session.get_inputs()[0].name
    for pixels in batches():
        try:
            values = session.run(list(tensors), {feed: pixels})
        except Exception as exc:
            raise InputError(
                f"calibration: the model fails on pixels {pixels.shape} ({_reason(exc)}); export it for that batch size"
            ) from exc
        yield dict(zip(tensors, values, strict=True))


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
