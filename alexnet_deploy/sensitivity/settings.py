"""Settings of ``diagnose`` and ``measure_stability``; the command line reads its defaults here without loading ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import UsageError, require_one_of, require_positive
from alexnet_deploy.precision.settings import CalibrationSettings
from alexnet_deploy.precision.types import QUANTIZED_TYPES, QuantizedType, is_weights_only, method_for, quantized_type


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseSettings(CalibrationSettings):
    """Settings of ``diagnose``."""

    precision: QuantizedType = "int8"
    images: int = 256
    """Number of images to diagnose on, balanced over the class folders if there are any. 256 are enough to rank layers
    by KL; a change of accuracy needs thousands (docs/diagnose.md)."""
    calibration_data: str | Path | None = None
    """Folder of calibration images; None: other images of the folder to diagnose on."""
    calibration_images: int = 128

    def __post_init__(self) -> None:
        require_positive(images=self.images)
        CalibrationSettings.__post_init__(self)  # super() fails in a dataclass with slots
        require_one_of(QUANTIZED_TYPES, precision=self.precision)
        method_for(self.precision, self.calibration_method)


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilitySettings(CalibrationSettings):
    """Settings of ``measure_stability``; ``seed`` is the first of the seeds."""

    precision: Precision = "int8"
    """int8 or fp8, with or without fp16."""
    seeds: int = 5
    """Number of draws of images to compare."""
    batch_sizes: tuple[int, ...] | None = None
    """Batch sizes to compare on the first draw; None: 1, 16, 32, or the one of a static model."""
    validation_data: str | Path | None = None
    """Folder with one folder of images per class: compare top-1 on it."""
    runtime: str = "auto"
    """The runtime that measures top-1."""

    def __post_init__(self) -> None:
        CalibrationSettings.__post_init__(self)
        require_one_of(get_args(Precision), precision=self.precision)
        dtype = quantized_type(self.precision)
        if dtype is None or is_weights_only(dtype):
            raise UsageError(f"`precision` {self.precision}: has no value ranges to compare; choose int8 or fp8")
        method_for(dtype, self.calibration_method)
        if self.seeds < 2:
            raise UsageError(f"`seeds` {self.seeds}: must be 2 or more; one calibration has no spread")
        if self.batch_sizes is not None and (not self.batch_sizes or min(self.batch_sizes) < 1):
            numbers = ",".join(map(str, self.batch_sizes))
            raise UsageError(f"`batch_sizes` {numbers}: must be numbers of 1 or more, such as 1,16,32")
