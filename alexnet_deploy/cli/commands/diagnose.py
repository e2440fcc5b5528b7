"""Which layers suffer from int8 or fp8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from alexnet_deploy.bundle.store import refuse_bundle
from alexnet_deploy.cli.commands import show_diagnosis
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import DEFAULT_ONNX, STORE, Json, Labels, Mean, Std, choice, import_options_of
from alexnet_deploy.cli.terminal import out, progress_bars, steps_into
from alexnet_deploy.precision.thresholds import METHODS

Kind = Literal["int8", "fp8"]


def diagnose(
    data: Annotated[Path, typer.Option(help="Folder of images, best labelled; they only diagnose.")],
    onnx: Annotated[Path, typer.Argument(help="A float classifier as ONNX: ours, or of another tool.")] = DEFAULT_ONNX,
    images: Annotated[int, typer.Option(help="How many of them to use.")] = 256,
    kind: Annotated[str, typer.Option(help="int8 or fp8.")] = "int8",
    calibration_data: Annotated[
        Path | None, typer.Option(help="Folder of images that calibrate [default: other images of --data].")
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="How many of them to use.")] = 128,
    calibration_method: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(METHODS)} [default: entropy; max for fp8].")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="Regular expression of nodes not to quantise.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which images are used.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the table into a .png, .svg or .pdf.")] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    json_: Json = False,
) -> None:
    """Rank the layers by what quantising each one costs, alone and among the others."""
    method = choice("--calibration-method", calibration_method, METHODS) if calibration_method else None
    chosen: Kind = choice("--kind", kind, get_args(Kind))
    if plot is not None:
        with needs("measure"):
            from alexnet_deploy.report.plots import check_target, plot_diagnosis
        check_target(plot)
    with needs("cpu"):
        from alexnet_deploy.sensitivity.layers import diagnose
    refuse_bundle(onnx, STORE)
    with progress_bars() as progress:
        found = diagnose(
            onnx,
            data,
            kind=chosen,
            images=images,
            calibration_data=calibration_data,
            calibration_images=calibration_images,
            method=method,
            exclude=exclude,
            seed=seed,
            import_options=import_options_of(mean, std, labels),
            on_progress=steps_into(progress),
        )
    if plot is not None:
        plot_diagnosis(found, plot)
    show_diagnosis.diagnosis(out, found, as_json=json_)
