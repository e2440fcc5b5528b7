"""The first half of a build: a float32 model -> ``model.onnx`` in the bundle's precision, and ``calibration.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy import __version__
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.contract import Precision
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.precision.calibration.cache import CalibrationCache
from alexnet_deploy.precision.calibration.record import CalibrationRecord, recorded_files
from alexnet_deploy.precision.convert import Batches, to_fp16, to_quantized
from alexnet_deploy.precision.float_model import CALIBRATION_BATCH, FloatModel
from alexnet_deploy.precision.types import Method, method_for, quantized_type
from alexnet_deploy.progress import Progress


def write_typed_onnx(
    model: FloatModel,
    folder: Path,
    precision: Precision,
    images: CalibrationSet | None,
    settings: BuildSettings,
    on_progress: Progress,
) -> list[str]:
    """Write ``model.onnx`` into ``folder``, with ``images`` also ``calibration.json``; return notes for the manifest.

    ``images`` calibrate: int8 and fp8 need them. For fp32 the file of ``model`` moves. Raises the errors of the
    conversion.
    """
    out = folder / MODEL
    dtype = quantized_type(precision)
    if precision == "fp32":
        os.rename(model.path, out)
    elif precision == "fp16":
        to_fp16(model.path, out, source=model.source)
    if dtype is None:
        return []
    method = method_for(dtype, settings.calibration_method)
    calibration = to_quantized(
        model.path,
        out,
        precision=precision,
        batches=None if images is None else _reported(model, images, method, on_progress),
        method=method,
        exclude=settings.exclude,
        cache=open_cache(model, images, settings.calibration_cache),
        source=model.source,
    )
    if images is None:
        return [
            "weights are rounded to nearest; with `calibration_data` those of dense layers are rounded so that the "
            "outputs of the layers stay closer"
        ]
    record = CalibrationRecord(
        precision=precision,
        method=method,
        exclude=settings.exclude,
        seed=images.seed,
        preprocessing=model.contract.preprocessing,
        weights_sha256=calibration.weights_sha256,
        files=recorded_files(images),
        largest_by_tensor=calibration.largest_by_tensor,
        threshold_by_tensor=calibration.threshold_by_tensor,
        tools=tool_versions(),
    )
    (folder / CALIBRATION).write_text(record.to_json(), encoding="utf-8")
    if not calibration.from_cache:
        return []
    return [
        f"calibration: the value ranges of the {len(images.files)} images come from the cache of an earlier run "
        "with the same images, weights and versions"
    ]


def open_cache(model: FloatModel, images: CalibrationSet | None, folder: str | Path | None) -> CalibrationCache | None:
    """The cache in ``folder`` for calibrating ``model`` with ``images``; None without a folder or images."""
    if folder is None or images is None:
        return None
    key = {
        "preprocessing": dataclasses.asdict(model.contract.preprocessing),
        "images": images.digest(),
        "batch": model.fixed_batch or CALIBRATION_BATCH,
        "tools": tool_versions(),
    }
    return CalibrationCache(Path(folder), key)


def _reported(model: FloatModel, images: CalibrationSet, method: Method, on_progress: Progress) -> Batches:
    """The calibration pixels, one pass per call; progress counts images over all passes."""
    total = len(images.files) * (1 if method in ("max", "gptq") else 2)
    done = 0

    def batches() -> Iterator[NDArray[np.uint8]]:
        nonlocal done
        for pixels_NHWC in model.batches(images):
            yield pixels_NHWC
            done += len(pixels_NHWC)
            on_progress("calibration", done, total)

    return batches


def tool_versions() -> dict[str, str]:
    """Versions of everything that shapes a typed ONNX; each plan names its TensorRT."""
    found = {"alexnet-deploy": __version__, "python": platform.python_version()}
    for name in ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
