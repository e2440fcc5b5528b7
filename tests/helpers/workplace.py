"""A folder to run commands in: photos by class, and a store of two tiny bundles."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.helpers.bundles import build_bundle
from tests.helpers.colour_models import OUTLIER, hostile_classifier


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
