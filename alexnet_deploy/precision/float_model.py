"""The float32 model that every conversion starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.onnx_graph.element_types import is_quantised
from alexnet_deploy.onnx_graph.float32 import OTHER_FLOATS, widen_to_float32
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx, save_onnx
from alexnet_deploy.verification.imported import adopt_verified

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
    notes: tuple[str, ...] = ()
    """What the import found, for people."""

    def batches(self, images: CalibrationSet, batch: int = CALIBRATION_BATCH) -> Iterator[NDArray[np.uint8]]:
        """The pixels of ``images`` ``[n, H, W, 3]``, n at most ``batch``, or the fixed batch of the model."""
        return images.batches(self.contract.preprocessing, self.fixed_batch or batch)


def import_float_model(onnx: Path, path: Path, options: ImportOptions, *, images: Path | None = None) -> FloatModel:
    """Write ``onnx`` in our form to ``path``, and compare the two on ``images`` (None: the sample photos).

    A model with float16 weights is widened to float32, which is exact: the bundle then computes in the precision that
    it is built in. Raises the errors of ``adopt_verified``, and InputError for a model that is already quantised.
    """
    contract, notes = adopt_verified(onnx, path, options, images=images)
    model = load_onnx(path)
    if any(map(is_quantised, model.graph.node)):
        raise InputError(
            f"{onnx}: is already quantised, and an engine is built from floats; give the float model, or run this one "
            "as it is with: alexnet-deploy infer"
        )
    if widen_to_float32(model, OTHER_FLOATS, str(onnx)):
        save_onnx(model, path)
        notes = (*notes, f"the float16 of {onnx} is float32 in this engine, exactly; fp16 computes in float16")
    return FloatModel(path, contract, fixed_batch(model), str(onnx), notes)
