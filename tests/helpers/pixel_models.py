"""Models of a few pixels, whose tensor ranges can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.precision.ranges import choose_thresholds, observe
from alexnet_deploy.precision.types import Method
from tests.helpers.graphs import graph_model

Batches = Callable[[], Iterator[NDArray[np.uint8]]]


def pixel_model(body: str, *, integers: dict[str, Any] | None = None, **weights: Any) -> onnx.ModelProto:
    """``body`` turns the pixels' values ``x`` [N, 2, 2, 3], 0..255, into ``y`` of the same shape."""
    floats = {name: np.asarray(values, np.float32) for name, values in weights.items()}
    signature = "(uint8[N,2,2,3] pixels) => (float[N,2,2,3] y)"
    return graph_model(signature, f"x = Cast <to = 1> (pixels); {body}", **floats, **(integers or {}))


MINUS_150 = pixel_model("y = Sub (x, c)", c=150)


def in_batches(pixels_NHWC: NDArray[np.uint8], batch: int) -> Batches:
    return lambda: (pixels_NHWC[i : i + batch] for i in range(0, len(pixels_NHWC), batch))


def tensor_thresholds(
    model: onnx.ModelProto, tensors: tuple[str, ...], batches: Batches, method: Method
) -> dict[str, float]:
    return choose_thresholds(model, observe(model, tensors, batches, histograms=method != "max"), tensors, method)
