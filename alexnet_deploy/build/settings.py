"""Settings of ``build_engine`` besides the precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS, PlanOptions
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.precision.settings import CalibrationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings(CalibrationSettings):
    """Settings of ``build_engine``; those of calibration and ``exclude`` are for quantised precisions only.

    Weights alone (int4, int8-weights) are calibrated only if there is calibration data.
    """

    calibration_cache: str | Path | None = None
    """Folder that keeps calibration values between runs; None: measure them."""
    batch: BatchProfile | None = None
    """Batch sizes of the plans; None: 1..32 tuned for 8, or the one batch size of a static model."""
    targets: tuple[str, ...] = ()
    """GPUs to build plans for: values of ``targets.TARGETS``, or names such as ``rtx4090``.

    Empty: the GPU of this machine, else one portable plan.
    """
    plan_options: PlanOptions = DEFAULT_OPTIONS
    """Options of the plans; its ``profiles`` take the place of ``batch``."""
    timing_cache: str | Path | None = None
    """Folder in which the full TensorRT keeps its timings between builds; None: it times every layer again."""
    verify_images: str | Path | None = None
    """Folder of photos on which the engine is compared with the original; None: 16 of the calibration images, else the
    sample photos."""
    full_decode: bool = False
    """Decode every photo in full, for calibration and in use; else as the contract of the ONNX says."""
    until: str | None = None
    """Layer to end at: the engine returns its output, the features of an image, and names no class."""
    allow_fallback: tuple[str, ...] = ()
    """Nodes, by name or regular expression, that may miss their precision."""
