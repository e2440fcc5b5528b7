"""Settings of ``diagnose`` and ``measure_stability``; the command line reads its defaults here without loading ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.contract import Precision
from alexnet_deploy.precision.settings import CalibrationSettings
from alexnet_deploy.precision.types import QuantizedType


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilitySettings(CalibrationSettings):
    """Settings of ``measure_stability``; ``seed`` is the first of the seeds."""

    precision: Precision = "int8"
    """A quantised precision."""
    seeds: int = 5
    """Number of draws of images to compare."""
    batch_sizes: tuple[int, ...] | None = None
    """Batch sizes to compare on the first draw; None: 1, 16, 32, or the one of a static model."""
    validation_data: str | Path | None = None
    """Folder with one folder of images per class: compare top-1 on it."""
    runtime: str = "auto"
    """The runtime that measures top-1."""
