"""What the tensors of a model hold over calibration images.

Two passes over the images: the first finds every tensor's largest magnitude, the second fills a histogram up to
it. Memory is one batch and one histogram a tensor.
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

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.thresholds import BINS, Method, Values, threshold


def observe(
    model: onnx.ModelProto,
    tensors: tuple[str, ...],
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    *,
    histograms: bool,
) -> dict[str, Values]:
    """What each of ``tensors`` of a float32 ``model`` with one input holds over the images.

    ``batches`` starts a pass over the same images each time it is called: one, and with ``histograms`` a second. A
    batch that a model of a fixed size is not given in full is filled up, and what fills it does not count.
    Raises InputError for a tensor that is not finite.
    """
    with TemporaryDirectory() as folder:
        session = _session_with_outputs(model, tensors, Path(folder))
        lowest, highest = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
        for values in _runs(session, tensors, batches):
            for name, array in values.items():
                # Not Python's min and max, which drop a NaN.
                lowest[name] = float(np.minimum(lowest[name], array.min()))
                highest[name] = float(np.maximum(highest[name], array.max()))
        observed = {name: Values(lowest[name], highest[name], None) for name in tensors}
        for name, value in observed.items():
            if not np.isfinite(value.lowest + value.highest):
                raise InputError(f"calibration: tensor {_told(model, name)} is not finite; the model is broken")
        if not histograms:
            return observed
        counts = {name: np.zeros(BINS, np.int64) for name in tensors}
        for values in _runs(session, tensors, batches):
            for name, array in values.items():
                # A tensor of zeros has no range to divide; whoever needs its threshold refuses it.
                largest = observed[name].largest or 1.0
                counts[name] += np.histogram(np.abs(array), BINS, (0.0, largest))[0]
    return {name: Values(value.lowest, value.highest, counts[name]) for name, value in observed.items()}


def thresholds_of(
    model: onnx.ModelProto, observed: Mapping[str, Values], tensors: tuple[str, ...], method: Method
) -> dict[str, float]:
    """The largest magnitude to represent, for each of ``tensors``.

    Raises InputError for a tensor that is the same number everywhere: no image shows its range.
    """
    for name in tensors:
        if observed[name].lowest == observed[name].highest:
            raise InputError(
                f"calibration: tensor {_told(model, name)} is {observed[name].lowest:g} everywhere on every image; "
                "the model or the images are broken, or leave the layer out with --exclude"
            )
    return {name: threshold(observed[name].histogram, observed[name].largest, method) for name in tensors}


def _told(model: onnx.ModelProto, tensor: str) -> str:
    """The tensor and the layer that reads it."""
    layer = next((node.name for node in model.graph.node if tensor in node.input), "")
    return f"{tensor} (input of layer {layer})" if layer else tensor


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
    feed = session.get_inputs()[0]
    for pixels in batches():
        count = len(pixels)
        size = max(feed.shape[0], count) if isinstance(feed.shape[0], int) else count
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], size - count, axis=0)])
        try:
            values = session.run(list(tensors), {feed.name: pixels})
        except Exception as exc:
            raise InputError(
                f"calibration: the model fails on pixels {pixels.shape} ({_reason(exc)}); export it for that batch size"
            ) from exc
        yield {name: _of_first(count, size, value) for name, value in zip(tensors, values, strict=True)}


def _of_first(count: int, size: int, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of a tensor that ``count`` of ``size`` images make; all of one whose first axis does not tell."""
    rows = value.shape[0] if value.ndim else 0
    return value if rows % size or count == size else value[: rows // size * count]


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
