"""Engine bundles in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import Manifest, load_manifest
from alexnet_deploy.contract import Precision
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.progress import Progress, no_progress


def build_bundle(
    onnx: Path,
    out: Path,
    precision: Precision = "fp32",
    calibration_data: Path | CalibrationSet | None = None,
    on_progress: Progress = no_progress,
    **settings: Any,
) -> Manifest:
    """``build_engine`` with a plan for sm89 alone, if ``settings`` (of ``BuildSettings``) name no other targets."""
    built = build_engine(
        onnx,
        out,
        precision=precision,
        calibration_data=calibration_data,
        settings=BuildSettings(**{"targets": ("sm89",)} | settings),
        on_progress=on_progress,
    )
    return load_manifest(built)[0]
