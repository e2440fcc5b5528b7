"""A float ONNX in a bundle's precision, with the record of what calibrated it: all of a build but the plans."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy import __version__
from alexnet_deploy.build.options import Bound, EngineOptions
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.precision.calibration_cache import CalibrationCache
from alexnet_deploy.precision.calibration_record import CalibrationRecord, recorded_files
from alexnet_deploy.precision.convert import method_for, to_fp16, to_quantized
from alexnet_deploy.precision.qdq import Quantized
from alexnet_deploy.precision.thresholds import Method

CALIBRATION_BATCH = 16
"""Images a calibration step runs; the thresholds do not depend on it, memory does."""

Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class TypedOnnx:
    """How one build makes its ``model.onnx``; ``notes`` gathers what its manifest has to say of that."""

    adopted: Path
    """The float model in our form."""
    contract: ModelContract
    fixed: int | None
    """The one batch size that it takes; None: any."""
    options: EngineOptions
    source: str
    """What messages call the model."""
    report: Report
    notes: list[str] = field(default_factory=list)

    def write(self, bundle: Path) -> None:
        """Write ``model.onnx`` into ``bundle``, and ``calibration.json`` where images took part."""
        if self.options.bound is None:
            self._write(bundle, self.options, self.notes)
        else:
            self._write_within(self.options.bound, bundle)

    def _write(self, bundle: Path, options: EngineOptions, notes: list[str]) -> None:
        out = bundle / MODEL
        kind, _, high = options.precision.partition("+")
        calibration = options.calibration
        if kind == "fp32":
            os.rename(self.adopted, out)
        elif kind == "fp16":
            to_fp16(self.adopted, out)
        elif calibration is not None:
            quantized: Quantized = "int8" if kind == "int8" else "fp8"
            method = method_for(quantized, options.method)
            made = to_quantized(
                self.adopted,
                out,
                kind=quantized,
                batches=self._batches(calibration, method),
                method=method,
                high="fp16" if high else "fp32",
                exclude=options.exclude,
                cache=self._cache(options.calibration_cache, calibration),
                source=self.source,
            )
            if made.from_cache:
                notes.append(
                    f"calibration: values of the {len(calibration.files)} images come from the cache, of a run over "
                    "the same images with the same weights and versions; --no-calibration-cache measures them anew"
                )
            record = CalibrationRecord(
                precision=options.precision,
                method=method,
                exclude=options.exclude,
                seed=calibration.seed,
                preprocessing=self.contract.preprocessing,
                weights_sha256=made.weights_sha256,
                files=recorded_files(calibration),
                largest_by_tensor=made.largest_by_tensor,
                threshold_by_tensor=made.threshold_by_tensor,
                tools=tools(),
            )
            (bundle / CALIBRATION).write_text(record.to_json(), encoding="utf-8")

    def _write_within(self, bound: Bound, bundle: Path) -> None:
        """``_write`` with the layers in float16 that ``bound`` needs; the record's ``exclude`` names them."""
        try:
            from alexnet_deploy.sensitivity.layers import Subject
            from alexnet_deploy.sensitivity.search import keep_worst
        except ImportError as exc:
            raise UnavailableError(
                "--max-drop: the search runs in ONNX Runtime, which is not installed; pip install 'alexnet-deploy[cpu]'"
            ) from exc
        options, calibration, scratch = self.options, self.options.calibration, self.adopted.parent
        assert calibration is not None  # build_engine checks it
        # One calibration serves every try, also where its values may not outlive this build.
        options = dataclasses.replace(options, calibration_cache=options.calibration_cache or scratch / "calibration")
        tries = 0

        def build(exclude: str | None, folder: Path) -> None:
            nonlocal tries
            chosen = dataclasses.replace(options, exclude=exclude)
            self._write(folder, chosen, [] if tries else self.notes)
            tries += 1

        cache = self._cache(options.calibration_cache, calibration)
        kind: Quantized = "int8" if options.precision.startswith("int8") else "fp8"
        subject = Subject(
            self.adopted, self.contract, kind, calibration, options.method, options.exclude, cache, self.source
        )
        kept = keep_worst(subject, bound.validation, bound.max_drop, build, scratch, on_progress=self.report)
        for name in (MODEL, CALIBRATION):
            os.rename(kept.folder / name, bundle / name)
        self.notes.append(kept.note)

    def _cache(self, folder: Path | None, calibration: CalibrationSet) -> CalibrationCache | None:
        if folder is None:
            return None
        run = {
            "preprocessing": dataclasses.asdict(self.contract.preprocessing),
            "images": calibration.digest(),
            "batch": self.fixed or CALIBRATION_BATCH,
            "tools": tools(),
        }
        return CalibrationCache(folder, run)

    def _batches(self, calibration: CalibrationSet, method: Method) -> Callable[[], Iterator[NDArray[np.uint8]]]:
        """The calibration pixels, a pass a call, reported image by image over all passes."""
        total = len(calibration.files) * (1 if method == "max" else 2)
        done = 0

        def batches() -> Iterator[NDArray[np.uint8]]:
            nonlocal done
            for pixels_NHWC in calibration.batches(self.contract.preprocessing, self.fixed or CALIBRATION_BATCH):
                yield pixels_NHWC
                done += len(pixels_NHWC)
                self.report("calibration", done, total)

        return batches


def tools() -> dict[str, str]:
    """Versions of what shaped the bundle; the plans name their TensorRT themselves."""
    found = {"alexnet-deploy": __version__, "python": platform.python_version()}
    for name in ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
