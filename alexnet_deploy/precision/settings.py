"""The settings that every calibration has."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_deploy.images.choose import DEFAULT_IMAGES
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.precision.types import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """How a float32 model is imported and calibrated."""

    calibration_images: int = DEFAULT_IMAGES
    """Number of images to choose from the calibration folder."""
    calibration_method: Method | None = None
    """None: the default of the type, entropy for int8 and max for fp8."""
    seed: int = 0
    """Decides which images are chosen."""
    exclude: str | None = None
    """Regular expression of nodes that stay float."""
    import_options: ImportOptions = NO_IMPORT_OPTIONS
