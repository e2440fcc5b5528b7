"""``build-engine``: from an ONNX file to an engine bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import load_manifest
from alexnet_deploy.bundle.plan_options import HardwareCompatibility, PlanOptions
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.bundle import print_bundle
from alexnet_deploy.cli.output.tables import print_copies_left_out, print_left_out, print_line
from alexnet_deploy.cli.output.terminal import note, reporting
from alexnet_deploy.cli.quantities import BatchSizes, Bytes
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import DeployError, UsageError

if TYPE_CHECKING:
    from alexnet_deploy.adoption.import_options import ImportOptions
    from alexnet_deploy.images.choose import CalibrationSet

_DEFAULTS = BuildSettings()

TIMING_CACHE = ".timing-cache"
"""Folder of the store, hidden from the list of its bundles."""


@opt.with_import_options
def build_engine(
    onnx: Annotated[
        Path, typer.Argument(metavar="ONNX", help="Classifier as ONNX: ours or another tool's.")
    ] = opt.DEFAULT_ONNX,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write.  [default: STORE/MODEL-PRECISION]")
    ] = None,
    fp16: opt.Fp16 = False,
    int8: opt.Int8 = False,
    fp8: opt.Fp8 = False,
    int8_weights: opt.Int8Weights = False,
    int4: opt.Int4 = False,
    calibration_data: Annotated[
        Path | None, typer.Option(help="Folder of images like those of production, to quantise by.")
    ] = None,
    calibration_images: opt.CalibrationImages = _DEFAULTS.calibration_images,
    calibration_method: opt.CalibrationMethod = None,
    calibration_cache: Annotated[
        bool,
        typer.Option(
            "--calibration-cache/--no-calibration-cache",
            help="Reuse the calibration of the same images, weights and versions.",
        ),
    ] = True,
    seed: opt.Seed = _DEFAULTS.seed,
    exclude: opt.Exclude = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Maximum drop of top-1; the worst layers stay float16 to meet it."),
    ] = None,
    validation_data: Annotated[
        Path | None,
        typer.Option(help="Folder for --max-drop, one subfolder per class; no image of it may calibrate."),
    ] = None,
    confidence_data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images to calibrate the engine's probabilities on, as calibrate-confidence does; use them "
            "for nothing else.  [default: the calibration of the model, if it has one]"
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="A GPU such as t4, a100, l40s, rtx4090 or sm89, or portable, all or current.  [repeatable]",
        ),
    ] = None,
    min_batch: Annotated[int | None, typer.Option(help="Smallest batch of the plan.  [default: 1]")] = None,
    opt_batch: Annotated[int | None, typer.Option(help="Batch the plan is tuned for.  [default: 8]")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Largest batch of the plan.  [default: 32]")] = None,
    profiles: Annotated[
        list[BatchSizes] | None,
        typer.Option(
            "--profile",
            parser=BatchSizes.parse,
            metavar="MIN,OPT,MAX",
            help="Batch sizes with kernels of their own, instead of --max-batch and the like.  [repeatable]",
        ),
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32/--no-tf32", help="Let float32 layers of plans round to 10 bits of mantissa.")
    ] = False,
    workspace: Annotated[
        float | None,
        typer.Option(
            parser=Bytes.parse, metavar="SIZE", help="Most memory for a layer's intermediate results: 512MiB."
        ),
    ] = None,
    hardware_compatible: Annotated[
        HardwareCompatibility,
        typer.Option(help="GPUs that a plan runs on besides this one, at some loss of speed; full TensorRT only."),
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="The plan runs in later TensorRTs as well and contains code; full TensorRT only.",
        ),
    ] = False,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 builds fastest, 5 searches longest; full TensorRT only.  [default: 3]")
    ] = None,
    timing_cache: Annotated[
        bool,
        typer.Option(
            "--timing-cache/--no-timing-cache", help="Reuse the timings of earlier builds; full TensorRT only."
        ),
    ] = True,
    verify_images: Annotated[
        Path | None,
        typer.Option(
            help="Photos on which the engine is compared with the original.  [default: 16 of the calibration images, "
            "else the sample photos]"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER", help="Layer to end at, such as classifier.5: an engine for features and neighbours."
        ),
    ] = None,
    allow_fallback: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Nodes that need not get their precision.  [repeatable]"),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(metavar="X", help="Least speed on this machine, as a multiple of the float32 model's; else fail."),
    ] = None,
    full_decode: opt.FullDecode = False,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Build an engine bundle, with proof of its precision.

    A bundle holds the typed ONNX and TensorRT plans. The build fails if a layer did not get its precision.
    """
    if (max_drop is None) != (validation_data is None):
        raise UsageError("`max_drop` is measured on `validation_data`: give both, or neither")
    for name, given in (("max_drop", max_drop), ("confidence_data", confidence_data)):
        if given is not None and until is not None:
            raise UsageError(f"`{name}` is about classes, and an engine with `until` names none; leave one of them out")
    # The layers that --max-drop keeps are float16.
    precision = opt.precision_of(
        fp16=fp16 or max_drop is not None, int8=int8, fp8=fp8, int8_weights=int8_weights, int4=int4
    )
    from alexnet_deploy.build.engine import build_engine, choose_calibration, default_output
    from alexnet_deploy.precision.calibration.cache import default_folder
    from alexnet_deploy.profiling.speedup import SpeedCheck

    settings = BuildSettings(
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        calibration_cache=default_folder() if calibration_cache else None,
        seed=seed,
        exclude=exclude,
        batch=opt.batch_profile(min_batch, opt_batch, max_batch),
        targets=tuple(targets or ()),
        plan_options=PlanOptions(
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            optimization_level=optimization_level,
            workspace_mib=None if workspace is None else max(1, round(workspace / 2**20)),
            tf32=tf32,
            profiles=tuple(BatchProfile(*sizes) for sizes in profiles or ()),
        ),
        timing_cache=store / TIMING_CACHE if timing_cache else None,
        verify_images=verify_images,
        until=until,
        allow_fallback=tuple(allow_fallback or ()),
        import_options=import_options,
        full_decode=full_decode,
    )
    if confidence_data is not None:
        with needs("measure"):  # before anything is built
            from alexnet_deploy.evaluation.confidence.calibrate import calibrate
            from alexnet_deploy.evaluation.confidence.images import check_images
    speed = SpeedCheck(precision, min_speedup)
    build: Callable[..., Path] = build_engine
    if max_drop is not None and validation_data is not None:
        with needs("cpu"):
            from alexnet_deploy.sensitivity.search import build_within_drop
        build = partial(build_within_drop, max_drop=max_drop, validation_data=validation_data)
    images: Path | CalibrationSet | None = calibration_data
    if confidence_data is not None:
        images = choose_calibration(precision, calibration_data, settings)
        check_images(
            confidence_data,
            _contract_of(onnx, import_options),
            model=str(onnx),
            calibrated_by=() if images is None else images.sha256,
            used_for={"validation_data": validation_data},
        )
    with reporting() as report:
        bundle = build(
            onnx,
            output or default_output(onnx, precision, store, until=until),
            precision=precision,
            calibration_data=images,
            settings=settings,
            accept=speed,
            on_progress=report,
        )
    more: dict[str, object] = {"speed": speed.to_dict()}
    if confidence_data is not None:
        try:
            with running(bundle, store, "auto", None) as opened, reporting() as report:
                found = calibrate(bundle, opened, confidence_data, coverage=1, on_progress=report)
        except DeployError:
            note(f"{bundle}/ is built; its probabilities were not calibrated on {confidence_data}", style="yellow")
            raise
        fit = found.record
        more["confidence"] = fit.summary() | {"unreadable": found.unreadable, "copies": found.copies}
    print_bundle(bundle, load_manifest(bundle)[0], as_json=json_, more=more)
    if not json_:
        if confidence_data is not None:
            print_line(
                f"probabilities: {fit.method}, fitted on {fit.images} images; ECE {fit.before.ece_percent:.2f} -> "
                f"{fit.after.ece_percent:.2f} % on them"
            )
            print_left_out(found.unreadable)
            print_copies_left_out(found.copies)
        for line in speed.describe():
            note(in_flags(line))
    if confidence_data is not None:
        exit_where_left_out(found.unreadable, fit.images)


def _contract_of(onnx: Path, options: ImportOptions) -> ModelContract:
    """The contract that a bundle of ``onnx`` will have."""
    from alexnet_deploy.adoption.adopt import adopt

    with TemporaryDirectory() as scratch:
        return adopt(onnx, Path(scratch) / "float.onnx", options)
