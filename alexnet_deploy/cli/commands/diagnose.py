"""``diagnose``: which layers suffer from int8 or fp8."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.terminal import note_written, out, reporting
from alexnet_deploy.files import check_file
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.precision.float_source import refuse_bundle
from alexnet_deploy.sensitivity.settings import DiagnoseSettings

if TYPE_CHECKING:  # it loads a runtime; here it is only a shape to print
    from alexnet_deploy.sensitivity.layers import Diagnosis
    from alexnet_deploy.sensitivity.variants import Effect

_DEFAULTS = DiagnoseSettings()


def diagnose(
    onnx: opt.FloatOnnx = opt.DEFAULT_ONNX,
    *,
    data: opt.ImagesData,
    images: Annotated[int, typer.Option(help="Number of images to diagnose on.")] = _DEFAULTS.images,
    int8: opt.Int8 = False,
    fp8: opt.Fp8 = False,
    calibration_data: Annotated[
        Path | None, typer.Option(help="Folder of images that calibrate.  [default: other images of --data]")
    ] = None,
    calibration_images: opt.CalibrationImages = _DEFAULTS.calibration_images,
    calibration_method: opt.CalibrationMethod = None,
    exclude: opt.Exclude = None,
    seed: opt.Seed = _DEFAULTS.seed,
    plot: opt.Plot = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    labels: opt.Labels = None,
    json_: opt.Json = False,
) -> None:
    """Rank layers by what quantising each one costs.

    Each layer is measured alone and among the others; labelled images also give the change of accuracy.
    """
    if plot is not None:
        with needs("measure"):
            from alexnet_deploy.report.plots import FORMATS, plot_diagnosis
        check_file(plot, "plot", formats=FORMATS)
    with needs("cpu"):
        from alexnet_deploy.sensitivity.layers import diagnose
    refuse_bundle(onnx, opt.STORE)
    settings = DiagnoseSettings(
        precision=opt.quantized_type_of(int8=int8, fp8=fp8),
        images=images,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        exclude=exclude,
        seed=seed,
        import_options=ImportOptions(mean, std, labels),
    )
    with reporting() as report:
        found = diagnose(onnx, data, settings, on_progress=report)
    if json_:
        _print_json(found)
    else:
        _print_table(found)
    if plot is not None:
        plot_diagnosis(found, plot)
        note_written(plot)


def _print_json(found: Diagnosis) -> None:
    raw = dataclasses.asdict(found)
    for row, layer in zip(raw["layers"], found.layers, strict=True):
        row["kl_regained_nats"] = found.regained_nats(layer)
        row["sqnr_db"] = layer.sqnr_db if math.isfinite(layer.sqnr_db) else None  # JSON has no infinity
    print_json(raw)


def _print_table(found: Diagnosis) -> None:
    """All layers, the worst first, and what they cost together."""
    before, everything = found.float_top1_percent, found.everything
    changes = [">top-1 points"] if before is not None else []
    grid = table(
        "layer",
        "op",
        ">SQNR dB",
        *(">alone: KL", ">agree %", *changes),
        *(">float again: KL regained", ">agree %", *changes),
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
