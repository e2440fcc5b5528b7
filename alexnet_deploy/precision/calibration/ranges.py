"""The value range of each tensor of a model, measured over calibration images.

The first pass over the images finds each tensor's lowest and highest value, the second fills a histogram of magnitudes.
Memory holds one batch and one histogram per tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.precision.calibration.thresholds import BINS, TensorRange, threshold
from alexnet_deploy.precision.types import Method


def observe(
    model: onnx.ModelProto,
    tensors: tuple[str, ...],
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    *,
    histograms: bool,
) -> dict[str, TensorRange]:
    """Measure the range of each of ``tensors`` of a float32 ``model`` with one input.

    ``batches`` starts a pass over the same pixels ``[N, H, W, 3]`` each time it is called: once, and with
    ``histograms`` twice. Images that only fill up a fixed batch do not count. Raises InputError for a tensor that is
    not finite.
    """
    session = TensorSession(model, tensors, source="calibration", all_optimisations=True)
    lowest, highest = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    for values in map(session, batches()):
        for name, array in values.items():
            if not array.size:
                raise InputError(
                    f"calibration: tensor {_with_layer(model, name)} has no elements; export a model for images of an "
                    "ordinary size"
                )
            # Python's min and max would drop a NaN.
            lowest[name] = float(np.minimum(lowest[name], array.min()))
            highest[name] = float(np.maximum(highest[name], array.max()))
    observed = {name: TensorRange(lowest[name], highest[name], None) for name in tensors}
    for name, found in observed.items():
        if not np.isfinite(found.lowest + found.highest):
            raise InputError(
                f"calibration: tensor {_with_layer(model, name)} is not finite; export the model from a sound "
                "checkpoint"
            )
    if not histograms:
        return observed
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for values in map(session, batches()):
        for name, array in values.items():
            # A tensor of zeros has no range to divide; choose_thresholds refuses it if it is needed.
            largest = observed[name].largest or 1.0
            counts[name] += np.histogram(np.abs(array), BINS, (0.0, largest))[0]
    return {name: TensorRange(found.lowest, found.highest, counts[name]) for name, found in observed.items()}


def choose_thresholds(
    model: onnx.ModelProto, observed: Mapping[str, TensorRange], tensors: tuple[str, ...], method: Method
) -> dict[str, float]:
    """Choose the largest magnitude to represent, for each of ``tensors``.

    Raises InputError for a tensor that has the same value everywhere: then no image reveals its range.
    """
    for name in tensors:
        if observed[name].lowest == observed[name].highest:
            raise InputError(
                f"calibration: tensor {_with_layer(model, name)} is {observed[name].lowest:g} everywhere on every "
                "image; check the model and the images, or leave the layer out with `exclude`"
            )
    return {name: threshold(observed[name].histogram, observed[name].largest, method) for name in tensors}


def _with_layer(model: onnx.ModelProto, tensor: str) -> str:
    """The tensor's name and the layer that reads it."""
    layer = next((node.name for node in model.graph.node if tensor in node.input), "")
    return f"{tensor} (input of layer {layer})" if layer else tensor
