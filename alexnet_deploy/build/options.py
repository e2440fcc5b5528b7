"""What ``build-engine`` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.contract import BatchProfile, Precision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.precision.thresholds import Method


@dataclass(frozen=True, slots=True)
class Bound:
    """By how many points top-1 may drop from float32's on the labelled images of a folder."""

    max_drop: float
    validation: Path

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:  # NaN neither
            raise UsageError(f"--max-drop {self.max_drop:g}: takes points of top-1 accuracy in 0..100, such as 0.3")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What ``build-engine`` may be told. ``calibration`` is needed for int8 and fp8 and has no use elsewhere."""

    precision: Precision = "fp32"
    batch: BatchProfile | None = None
    """None: 1..32 tuned for 8, or the one batch size that a static model takes."""
    targets: tuple[str, ...] = ()
    calibration: CalibrationSet | None = None
    method: Method | None = None
    """None: the default of the type, entropy for int8 and max for fp8."""
    exclude: str | None = None
    calibration_cache: Path | None = None
    """Folder that keeps calibration values between runs; None: measure them."""
    bound: Bound | None = None
    """Keep in float16 what int8 or fp8 costs beyond it; for the precisions with float16."""
    allow_fallback: tuple[str, ...] = ()
    import_options: ImportOptions = NO_IMPORT_OPTIONS
