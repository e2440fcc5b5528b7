"""Values of a graph's tensors on a few artificial images, which show what its outputs mean."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, graph_inputs

# Legend: N image, H height, W width, C channel (RGB)

_GRIDS = (1, 2, 4, 8, 64)
"""Sides of grids of random colours that are enlarged to images: from one colour to noise."""


def sample(
    model: onnx.ModelProto, tensors: list[str], *, source: str
) -> tuple[dict[str, list[NDArray[np.float64]]] | None, str]:
    """The values of ``tensors``, one array per run, or None and the reason in one line.

    ``model`` takes pixels ``[N, H, W, 3]`` of a fixed size. Runs hold one image each, because a free batch may be
    frozen inside, or as many as a fixed batch needs. Needs ONNX Runtime.
    """
    try:
        from alexnet_deploy.onnx_graph.taps import TensorSession
    except ImportError:
        return None, "ONNX Runtime is not installed; pip install 'alexnet-deploy[cpu]'"
    height, width = (dim.dim_value for dim in graph_inputs(model)[0].type.tensor_type.shape.dim[1:3])
    images_NHWC = _images(height, width)
    size = fixed_batch(model) or 1
    try:
        session = TensorSession(model, tensors, source=source)
        # A fixed batch holds these images in turn.
        values = [
            session(images_NHWC[np.arange(first, first + size) % len(images_NHWC)])
            for first in range(0, len(images_NHWC), size)
        ]
    except InputError as exc:
        return None, str(exc)
    try:
        return {name: [np.asarray(value[name], np.float64) for value in values] for name in tensors}, ""
    except (TypeError, ValueError):
        return None, f"{source}: an output is no tensor of numbers"


def _images(height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    grids = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in _GRIDS]
    rows, columns = np.arange(height), np.arange(width)
    return np.stack([grid[np.ix_(rows * len(grid) // height, columns * len(grid) // width)] for grid in grids])
