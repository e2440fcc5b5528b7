"""Which plans does TensorRT-RTX build of the shipped network, and what do its layers get? For every GPU and precision.

    python -m benchmarks.gpu.plans      two minutes, no GPU: writes results/plans.json, renders docs/versions.md from it

The full TensorRT builds on the card alone, so only ``python -m benchmarks.gpu`` says anything about it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from alexnet_deploy.build import proof
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.plans import build_plans
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.contract import BatchProfile, Precision
from alexnet_deploy.errors import DeployError
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.model.export import export
from alexnet_deploy.runtime.tensorrt.library import RTX, load
from alexnet_deploy.runtime.tensorrt.support import RTX_TARGETS
from benchmarks.gpu import page
from benchmarks.gpu.matrix import FALLBACKS, PLANS, PRECISIONS, Cells


def main() -> None:
    """Build, save, and render the pages."""
    found = {RTX: load(RTX).version, "date": datetime.now(UTC).date().isoformat(), "cells": built()}
    PLANS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page.write()


def built(targets: Sequence[str] = RTX_TARGETS, precisions: Sequence[Precision] = PRECISIONS) -> Cells:
    """Build in each precision for each target, and read back what the layers got."""
    cells: Cells = {target: {} for target in targets}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx = export(output=folder / "alexnet.onnx")
        for precision in precisions:
            settings, photos = BuildSettings(targets=("sm89",), allow_fallback=(".*",)), None
            if precision not in ("fp32", "fp16"):
                settings = dataclasses.replace(settings, calibration_images=12)
                photos = sample_photos()[0].parent
            bundle = build_engine(
                onnx, folder / precision, precision=precision, calibration_data=photos, settings=settings
            )
            for target in targets:
                cells[target][precision] = _layers_or_reason(bundle / MODEL, folder / "plans", target)
                print(target, precision, cells[target][precision], file=sys.stderr)
    return cells


def _layers_or_reason(onnx: Path, folder: Path, target: str) -> dict[str, int] | str:
    try:
        made = build_plans(onnx, folder, batch=BatchProfile(1, 8, 32), targets=(target,))
    except DeployError as exc:
        return str(exc).removeprefix(f"{onnx}: ")
    achieved = made.plans[0].achieved
    return {**Counter(layer.got for layer in achieved), FALLBACKS: len(proof.fallbacks(achieved))}


if __name__ == "__main__":
    main()
