"""Engine bundles in one line, and a folder to run commands in: photos by class, and a store of two tiny bundles."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from alexnet_deploy.build.engine import Accept, build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import Manifest, load_manifest
from alexnet_deploy.contract import Precision
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.progress import Progress, no_progress
from tests.helpers.models.colour_models import OUTLIER, hostile_classifier


def build_bundle(
    onnx: Path,
    out: Path,
    precision: Precision = "fp32",
    calibration_data: Path | CalibrationSet | None = None,
    on_progress: Progress = no_progress,
    accept: Accept | None = None,
    **settings: Any,
) -> Manifest:
    """``build_engine`` with a plan for sm89 alone, if ``settings`` (of ``BuildSettings``) name no other targets."""
    built = build_engine(
        onnx,
        out,
        precision=precision,
        calibration_data=calibration_data,
        settings=BuildSettings(**{"targets": ("sm89",)} | settings),
        accept=accept,
        on_progress=on_progress,
    )
    return load_manifest(built)[0]


def make_workplace(root: Path, photo_folder: Path, *, outlier: float = OUTLIER, **calibration: Any) -> Path:
    """Fill ``root`` with ``photos/{train,val}``, ``colours.onnx``, ``engines/exact`` and ``engines/ruined``.

    ``exact`` is float32 and right on every photo. ``ruined`` is int8, calibrated with 6 photos of ``photos/train``
    (``calibration``: more settings of ``build_bundle``); with the usual ``outlier`` it answers one class for all.
    """
    shutil.copytree(photo_folder, root / "photos")
    onnx = hostile_classifier(root / "colours.onnx", outlier=outlier)
    calibration = {"calibration_data": root / "photos/train", "calibration_images": 6} | calibration
    build_bundle(onnx, root / "engines/ruined", "int8", **calibration)
    build_bundle(onnx, root / "engines/exact")
    return root
