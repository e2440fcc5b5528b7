"""The float32 model that every conversion starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx

CALIBRATION_BATCH = 16
"""Images per calibration step. It changes the memory needed, not the thresholds."""


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A float32 ONNX in our form: uint8 pixels in, logits out, its contract in the metadata."""

    path: Path
    contract: ModelContract
    fixed_batch: int | None
    """The only batch size that it accepts; None: any."""
    source: str
    """The path that the user gave, for messages."""

    def batches(self, images: CalibrationSet, batch: int = CALIBRATION_BATCH) -> Iterator[NDArray[np.uint8]]:
        """The pixels of ``images`` ``[n, H, W, 3]``, n at most ``batch``, or the fixed batch of the model."""
        return images.batches(self.contract.preprocessing, self.fixed_batch or batch)


def import_float_model(onnx: Path, path: Path, options: ImportOptions) -> FloatModel:
    """Write ``onnx`` in our form to ``path``; raises the errors of ``adopt``."""
    contract = adopt(onnx, path, options)
    return FloatModel(path, contract, fixed_batch(load_onnx(path)), str(onnx))
