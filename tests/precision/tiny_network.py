"""A tiny network in float32, images to calibrate it with, and a number to put into its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx
from tests.helpers.models.onnx_models import SIDE


def noise(count: int, side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """Noise over a gradient of another direction in each image, so that they differ as a whole."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side][..., None] / side
    slopes = random.uniform(-200, 200, (2, count, 1, 1, 3))
    images = 128 + slopes[0] * (x - 0.5) + slopes[1] * (y - 0.5) + random.normal(0, 20, (count, side, side, 3))
    return np.asarray(np.clip(images, 0, 255), np.uint8)


def batches(side: int = SIDE) -> Iterator[NDArray[np.uint8]]:
    for seed in (1, 2, 3):
        yield noise(4, side, seed)


def with_weight(path: Path, which: int, value: float, out: Path) -> tuple[Path, str]:
    """The model with ``value`` as the first number of the weight of layer ``which``, and the name of that weight."""
    model = load_onnx(path)
    tensor = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1][which]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return save_onnx(model, out), tensor.name
