"""What the inputs of dense layers have in common over calibration images: ``X' X``, which GPTQ rounds weights by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.precision.rounding import SEGMENT


def second_moments(
    model: onnx.ModelProto,
    inputs_by_tensor: Mapping[str, int],
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """The diagonal blocks of ``X' X`` for each tensor of a float32 ``model``, divided by the number of rows.

    ``inputs_by_tensor`` has the size of each tensor's last axis, K; all other axes are rows of X. A block has at most
    ``SEGMENT`` inputs, so that memory grows with K and not with its square. ``batches`` starts a pass over the pixels
    ``[N, H, W, 3]``, once. Raises InputError for a tensor that is not finite.
    """
    session = TensorSession(model, list(inputs_by_tensor), source="calibration", all_optimisations=True)
    sums = {
        name: [np.zeros((n, n), np.float32) for n in _segments(inputs)] for name, inputs in inputs_by_tensor.items()
    }
    rows = dict.fromkeys(inputs_by_tensor, 0)
    for values in map(session, batches()):
        for name, inputs in inputs_by_tensor.items():
            x_NK = values[name].reshape(-1, inputs)
            rows[name] += len(x_NK)
            start = 0
            for moment in sums[name]:
                part_Nn = x_NK[:, start : start + len(moment)]
                moment += part_Nn.T @ part_Nn
                start += len(moment)
    for name, moments in sums.items():
        if not all(np.isfinite(moment).all() for moment in moments):
            raise InputError(f"calibration: tensor {name} is not finite; export the model from a sound checkpoint")
        for moment in moments:
            moment /= max(rows[name], 1)
    return {name: tuple(moments) for name, moments in sums.items()}


def _segments(inputs: int) -> list[int]:
    return [min(SEGMENT, inputs - start) for start in range(0, inputs, SEGMENT)]
