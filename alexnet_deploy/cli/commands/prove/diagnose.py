"""``diagnose`` and ``calibration-stability``: what quantising costs, and how much that depends on the calibration."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note_written, out, reporting
from alexnet_deploy.cli.quantities import Numbers
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.precision.float_source import refuse_bundle
from alexnet_deploy.sensitivity.settings import DiagnoseSettings, StabilitySettings

if TYPE_CHECKING:  # these load a runtime; only the types are needed here
    from alexnet_deploy.sensitivity.layers import Diagnosis
    from alexnet_deploy.sensitivity.stability import Stability
    from alexnet_deploy.sensitivity.variants import Effect

_DIAGNOSE, _STABILITY = DiagnoseSettings(), StabilitySettings()


@opt.with_import_options
def diagnose(
    onnx: opt.FloatOnnx = opt.DEFAULT_ONNX,
    *,
    data: opt.ImagesData,
    images: Annotated[int, typer.Option(help="Number of images to diagnose on.")] = _DIAGNOSE.images,
    int8: opt.Int8 = False,
    fp8: opt.Fp8 = False,
    int8_weights: opt.Int8Weights = False,
    int4: opt.Int4 = False,
    calibration_data: Annotated[
        Path | None, typer.Option(help="Folder of calibration images.  [default: other images of --data]")
    ] = None,
    calibration_images: opt.CalibrationImages = _DIAGNOSE.calibration_images,
    calibration_method: opt.CalibrationMethod = None,
    exclude: opt.Exclude = None,
    seed: opt.Seed = _DIAGNOSE.seed,
    plot: opt.Plot = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    json_: opt.Json = False,
) -> None:
    """Rank layers by what quantising each one costs.

    Each layer is measured alone and among the others; labelled images also give the change of accuracy.
    """
    if plot is not None:
        with needs("measure"):
            from alexnet_deploy.report.plots import FORMATS, plot_diagnosis
        check_output(plot, "plot", (onnx, data, calibration_data, import_options.labels), formats=FORMATS)
    with needs("cpu"):
        from alexnet_deploy.sensitivity.layers import diagnose
    _require_onnx(onnx, opt.STORE)
    settings = DiagnoseSettings(
        precision=opt.quantized_type_of(int8=int8, fp8=fp8, int8_weights=int8_weights, int4=int4)
        or _DIAGNOSE.precision,
        images=images,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        exclude=exclude,
        seed=seed,
        import_options=import_options,
    )
    with reporting() as report:
        found = diagnose(onnx, data, settings, on_progress=report)
    if found.unlabelled is not None:
        found = dataclasses.replace(found, unlabelled=in_flags(found.unlabelled))
    if json_:
        raw = dataclasses.asdict(found)
        for row, layer in zip(raw["layers"], found.layers, strict=True):
            row["kl_regained_nats"] = found.regained_nats(layer)
            row["sqnr_db"] = layer.sqnr_db if math.isfinite(layer.sqnr_db) else None  # JSON has no infinity
        print_json(raw)
    else:
        _print_diagnosis(found)
    if plot is not None:
        plot_diagnosis(found, plot)
        note_written(plot)


def _require_onnx(onnx: Path, store: Path, engine: str | None = None) -> None:
    """InputError if ``onnx`` is a bundle or missing: what ``export`` makes is not what an imported bundle came from."""
    refuse_bundle(onnx, store)
    if not os.path.lexists(onnx):
        give = "your own as `onnx`, or make ours: alexnet-deploy export"
        if engine is not None:
            give = f"the one that {engine} was built from as `onnx`"
        raise InputError(f"{onnx}: no such ONNX file; give {give}")


def _print_diagnosis(found: Diagnosis) -> None:
    """All layers, the worst first, and what they cost together."""
    before, everything = found.float_top1_percent, found.everything
    changes = [">top-1 points"] if before is not None else []
    grid = table(
        "layer",
        "op",
        ">SQNR dB",
        *(">alone: KL", ">agree %", *changes),
        *(">kept in float: KL regained", ">agree %", *changes),
    )
    for row in found.layers:
        alone = (f"{row.alone.kl_nats:.5f}", f"{row.alone.agreement_percent:.2f}", *_change(row.alone, before))
        again = (
            f"{found.regained_nats(row):.5f}",
            f"{row.restored.agreement_percent:.2f}",
            *_change(row.restored, everything.top1_percent),
        )
        add_row(grid, (row.layer, row.op, f"{row.sqnr_db:.1f}", *alone, *again))
    costs = (f"{everything.kl_nats:.5f}", f"{everything.agreement_percent:.2f}", *_change(everything, before))
    add_row(grid, ("all", "", "", *costs, *([""] * len(costs))), style="bold")
    out.print(grid)
    accuracy = f"no accuracy: {found.unlabelled}" if before is None else f"float32 top-1 {before:.2f} %"
    print_line(
        f"{found.precision} by {found.method} on {found.calibration_images} images, diagnosed on {found.images} "
        f"others; KL in nats per image; {accuracy}"
    )


def _change(effect: Effect, before: float | None) -> tuple[str, ...]:
    """The change of accuracy, where there are labels."""
    return () if effect.top1_percent is None or before is None else (f"{effect.top1_percent - before:+.2f}",)


@opt.with_import_options
def calibration_stability(
    onnx: opt.FloatOnnx = opt.DEFAULT_ONNX,
    *,
    calibration_data: Annotated[Path, typer.Option(help="Folder of images like those of production.")],
    engine: Annotated[
        str | None,
        typer.Option(
            autocompletion=opt.complete_engine,
            help="Bundle whose precision, method, exclusions, seed and number of images are repeated.",
        ),
    ] = None,
    fp16: opt.Fp16 = False,
    int8: opt.Int8 = False,
    fp8: opt.Fp8 = False,
    calibration_images: opt.CalibrationImages = _STABILITY.calibration_images,
    calibration_method: opt.CalibrationMethod = None,
    exclude: opt.Exclude = None,
    seed: Annotated[int, typer.Option(help="Seed of the first choice of images; the others follow.")] = _STABILITY.seed,
    seeds: Annotated[int, typer.Option(help="Number of choices of images to compare.")] = _STABILITY.seeds,
    batch_sizes: Annotated[
        Numbers | None,
        typer.Option(
            parser=Numbers.parse,
            metavar="N,N,...",
            help="Batch sizes to compare, with the images of the first choice.  [default: 1,16,32]",
        ),
    ] = None,
    validation_data: Annotated[
        Path | None, typer.Option(help="Folder of images, one subfolder per class, to compare top-1 on.")
    ] = None,
    runtime: opt.Runtime = "auto",
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure how much a calibration depends on its images.

    It is repeated with several choices of images and batch sizes. The result is the spread of scales and accuracy.
    """
    from alexnet_deploy.sensitivity.stability import measure_stability, settings_of

    settings = StabilitySettings(
        precision=opt.precision_of(fp16=fp16, int8=int8 or not fp8, fp8=fp8),
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        exclude=exclude,
        seed=seed,
    )
    if engine is not None:
        if settings != _STABILITY:
            raise UsageError("`engine` has its own calibration settings; leave out the others")
        settings = settings_of(find_bundle(engine, store))
    _require_onnx(onnx, store, engine)
    settings = dataclasses.replace(
        settings,
        seeds=seeds,
        batch_sizes=batch_sizes,
        validation_data=validation_data,
        runtime=runtime,
        import_options=import_options,
    )
    with reporting() as report:
        found = measure_stability(onnx, calibration_data, settings, on_progress=report)
    if json_:
        raw = dataclasses.asdict(found)
        raw["scales"] = [row | {"ratio": spread.ratio} for row, spread in zip(raw["scales"], found.scales, strict=True)]
        print_json(raw)
    else:
        _print_stability(found)


def _print_stability(found: Stability) -> None:
    """One row per tensor, then the effect of batch sizes and choices."""
    print_line(
        f"{found.precision} by {found.method}, {found.seeds} draws of {found.images} "
        f"calibration images (seeds {found.first_seed}..{found.first_seed + found.seeds - 1})"
    )
    grid = table("layer", "its input", ">smallest scale", ">median", ">largest", ">largest/smallest")
    for row in found.scales:
        numbers = (f"{value:.6g}" for value in (row.smallest, row.median, row.largest))
        add_row(grid, (row.layer, row.tensor, *numbers, f"{row.ratio:.3f}"))
    out.print(grid)
    sizes = ", ".join(map(str, found.batch_sizes))
    differ = found.batch_difference
    effect = f"scales that differ by up to {100 * differ:.2g} %" if differ else "the same scales to the last bit"
    print_line(f"batch sizes {sizes}: {effect}")
    if found.top1_percent:
        each = ", ".join(f"{value:.2f}" for value in found.top1_percent)
        print_line(
            f"top-1 on {found.validation_images} validation images: {each} % "
            f"(spread {max(found.top1_percent) - min(found.top1_percent):.2f}; float {found.float_top1_percent:.2f} %)"
        )
