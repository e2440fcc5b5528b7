"""The settings of every calibration. They are apart from it, so that the CLI reads defaults without NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.errors import require_one_of, require_positive
from alexnet_deploy.precision.types import Method, exclude_pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """How a float32 model is imported and calibrated; UsageError names a parameter out of range."""

    calibration_images: int = 512
    """Number of images to choose. TensorRT's guide considers about 500 enough for ImageNet networks."""
    calibration_method: Method | None = None
    """None: the default of the type, entropy for int8, max for fp8 and gptq for weights."""
    seed: int = 0
    """Seed of the choice of images."""
    exclude: str | None = None
    """Regular expression of nodes that stay float."""
    import_options: ImportOptions = NO_IMPORT_OPTIONS

    def __post_init__(self) -> None:
        require_positive(calibration_images=self.calibration_images)
        if self.calibration_method is not None:
            require_one_of(get_args(Method), calibration_method=self.calibration_method)
        exclude_pattern(self.exclude)
