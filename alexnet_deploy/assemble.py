"""build-engine as one function: any classifier ONNX -> a proved engine bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy import __version__
from alexnet_deploy.achieved import explain, fallbacks
from alexnet_deploy.adopt import adopt
from alexnet_deploy.build import Build, build_plans
from alexnet_deploy.bundle import CALIBRATION, MODEL, Manifest, Precision, save_manifest, write_bundle
from alexnet_deploy.calibration import CalibrationSet, Method
from alexnet_deploy.calibration_cache import CalibrationCache
from alexnet_deploy.calibration_record import CalibrationRecord, recorded_files
from alexnet_deploy.contract import SAYS_NOTHING, BatchProfile, Foreign, ModelContract
from alexnet_deploy.errors import ProofError, UnavailableError, UsageError
from alexnet_deploy.onnx_file import fixed_batch, load_onnx
from alexnet_deploy.precision import method_for, to_fp16, to_quantized
from alexnet_deploy.qdq import Quantized
from alexnet_deploy.trt_library import installed

CALIBRATION_BATCH = 16
"""Images a calibration step runs; the thresholds do not depend on it, memory does."""

Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


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
    foreign: Foreign = SAYS_NOTHING


def build_engine(onnx_path: Path, out: Path, options: EngineOptions, *, on_progress: Report | None = None) -> Manifest:
    """Build ``onnx_path`` into the bundle ``out``; it appears whole, or ``out`` stays as it was.

    Where no TensorRT is installed the bundle has no plan and its notes say so. Raises UsageError for options that
    contradict each other, ProofError where a layer did not get its precision and ``allow_fallback`` does not name
    it, and what the stages raise.
    """
    report = on_progress or (lambda stage, done, total: None)
    quantized = options.precision.startswith(("int8", "fp8"))
    if quantized and options.calibration is None:
        raise UsageError(
            f"--{options.precision.partition('+')[0]} needs --calibration-data DIR: without the value ranges of real "
            "images its scales would be guesses; give a folder of photos like those of production, not the ones you "
            "evaluate on"
        )
    if options.bound and not (quantized and options.precision.endswith("+fp16")):
        raise UsageError("--max-drop keeps layers of --int8 or --fp8 in float16; build with one of them and --fp16")
    with write_bundle(out) as bundle, TemporaryDirectory(dir=bundle.parent, prefix=f".{out.name}.work-") as scratch:
        adopted = Path(scratch) / "model.onnx"
        contract = adopt(onnx_path, adopted, options.foreign)
        fixed = fixed_batch(load_onnx(adopted))
        batch = _batch(fixed, onnx_path, options.batch)
        report("precision", 0, 1)
        notes: list[str] = []
        if options.bound is None:
            _apply_precision(adopted, bundle, options, contract, fixed, notes, report, str(onnx_path))
        else:
            _apply_within(options.bound, adopted, bundle, options, contract, fixed, notes, report, str(onnx_path))
        report("precision", 1, 1)
        built = _plans(bundle, onnx_path, batch, options, notes, report)
        achieved = {plan.plan.file: plan.achieved for plan in built.plans}
        missed = [
            f"{file}: {explain(layer)}"
            for file, layers in achieved.items()
            for layer in fallbacks(layers, options.allow_fallback)
        ]
        if missed:
            raise ProofError(
                f"{out}: not written: {len(missed)} layers did not get their precision, first in {missed[0]}; "
                "accept them with --allow-fallback NAME (a regular expression), or choose another --target or precision"
            )
        allowed = [layer for layers in achieved.values() for layer in fallbacks(layers)]
        notes += [f"allowed fallback: {explain(layer)}" for layer in allowed]
        manifest = Manifest(
            precision=options.precision,
            contract=contract,
            batch=batch,
            tools=_tools(),
            plans=tuple(plan.plan for plan in built.plans),
            achieved=achieved,
            notes=tuple(notes),
        )
        save_manifest(manifest, bundle)
    return manifest


def _batch(fixed: int | None, onnx_path: Path, asked: BatchProfile | None) -> BatchProfile:
    if fixed is None:
        return asked or BatchProfile()
    if asked is not None and (asked.min, asked.max) != (fixed, fixed):
        raise UsageError(
            f"{onnx_path}: takes batches of exactly {fixed}; leave out --min-batch and --max-batch, "
            "or export it with a dynamic batch"
        )
    return BatchProfile(fixed, fixed, fixed)


def _apply_precision(
    adopted: Path,
    bundle: Path,
    options: EngineOptions,
    contract: ModelContract,
    fixed: int | None,
    notes: list[str],
    report: Report,
    source: str,
) -> None:
    """Write ``model.onnx`` in the asked precision, and ``calibration.json`` where images took part."""
    out = bundle / MODEL
    kind, _, high = options.precision.partition("+")
    calibration = options.calibration
    if kind == "fp32":
        os.rename(adopted, out)
    elif kind == "fp16":
        to_fp16(adopted, out)
    elif calibration is not None:
        quantized: Quantized = "int8" if kind == "int8" else "fp8"
        method = method_for(quantized, options.method)
        made = to_quantized(
            adopted,
            out,
            kind=quantized,
            batches=_counted_batches(calibration, contract, fixed, method, report),
            method=method,
            high="fp16" if high else "fp32",
            exclude=options.exclude,
            cache=_cache(options.calibration_cache, calibration, contract, fixed),
            source=source,
        )
        if made.from_cache:
            notes.append(
                f"calibration: values of the {len(calibration.files)} images come from the cache, of a run over the "
                "same images with the same weights and versions; --no-calibration-cache measures them anew"
            )
        record = CalibrationRecord(
            precision=options.precision,
            method=method,
            exclude=options.exclude,
            seed=calibration.seed,
            preprocessing=contract.preprocessing,
            weights_sha256=made.weights_sha256,
            files=recorded_files(calibration),
            largest_by_tensor=made.largest_by_tensor,
            threshold_by_tensor=made.threshold_by_tensor,
            tools=_tools(),
        )
        (bundle / CALIBRATION).write_text(record.to_json(), encoding="utf-8")


def _apply_within(
    bound: Bound,
    adopted: Path,
    bundle: Path,
    options: EngineOptions,
    contract: ModelContract,
    fixed: int | None,
    notes: list[str],
    report: Report,
    source: str,
) -> None:
    """``_apply_precision`` with the layers in float16 that ``bound`` needs; the record's ``exclude`` names them."""
    try:
        from alexnet_deploy.diagnose import Subject
        from alexnet_deploy.keep_layers import keep_worst
    except ImportError as exc:
        raise UnavailableError(
            "--max-drop: the search runs in ONNX Runtime, which is not installed; pip install 'alexnet-deploy[cpu]'"
        ) from exc
    calibration, scratch = options.calibration, adopted.parent
    assert calibration is not None  # build_engine checks it
    # One calibration serves every try, also where its values may not outlive this build.
    options = dataclasses.replace(options, calibration_cache=options.calibration_cache or scratch / "calibration")
    tries = 0

    def build(exclude: str | None, folder: Path) -> None:
        nonlocal tries
        chosen = dataclasses.replace(options, exclude=exclude)
        _apply_precision(adopted, folder, chosen, contract, fixed, [] if tries else notes, report, source)
        tries += 1

    cache = _cache(options.calibration_cache, calibration, contract, fixed)
    kind: Quantized = "int8" if options.precision.startswith("int8") else "fp8"
    subject = Subject(adopted, contract, kind, calibration, options.method, options.exclude, cache, source)
    kept = keep_worst(subject, bound.validation, bound.max_drop, build, scratch, on_progress=report)
    for name in (MODEL, CALIBRATION):
        os.rename(kept.folder / name, bundle / name)
    notes.append(kept.note)


def _cache(
    folder: Path | None, calibration: CalibrationSet, contract: ModelContract, fixed: int | None
) -> CalibrationCache | None:
    if folder is None:
        return None
    run = {
        "preprocessing": dataclasses.asdict(contract.preprocessing),
        "images": calibration.digest(),
        "batch": fixed or CALIBRATION_BATCH,
        "tools": _tools(),
    }
    return CalibrationCache(folder, run)


def _counted_batches(
    calibration: CalibrationSet, contract: ModelContract, fixed: int | None, method: Method, report: Report
) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """The calibration pixels, a pass a call, reported image by image over all passes."""
    total = len(calibration.files) * (1 if method == "max" else 2)
    done = 0

    def batches() -> Iterator[NDArray[np.uint8]]:
        nonlocal done
        pre = contract.preprocessing
        for pixels_NHWC in calibration.batches(pre, fixed or CALIBRATION_BATCH, fill=fixed is not None):
            yield pixels_NHWC
            done = min(done + len(pixels_NHWC), total)
            report("calibration", done, total)

    return batches


def _plans(
    bundle: Path, onnx_path: Path, batch: BatchProfile, options: EngineOptions, notes: list[str], report: Report
) -> Build:
    if not options.targets and not installed():
        notes.append(
            "no TensorRT plan: none is installed; pip install 'alexnet-deploy[rtx]' builds plans on any machine"
        )
        return Build(())
    built = build_plans(
        bundle / MODEL,
        bundle,
        batch=batch,
        targets=options.targets,
        source=str(onnx_path),
        on_progress=lambda target, done, total: report(f"TensorRT {target}", done, total),
    )
    notes += [f"no plan: {reason}" for reason in built.passed_over]
    return built


def _tools() -> dict[str, str]:
    """Versions of what shaped the bundle; the plans name their TensorRT themselves."""
    found = {"alexnet-deploy": __version__, "python": platform.python_version()}
    for name in ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
