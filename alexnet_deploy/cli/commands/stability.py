"""Does it matter which images calibrate?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from alexnet_deploy.bundle.store import refuse_bundle
from alexnet_deploy.cli.options import STORE, Json, Labels, Mean, Runtime, Std, choice, import_options_of, whole_numbers
from alexnet_deploy.cli.terminal import out, progress_bars, steps_into
from alexnet_deploy.images.choose import DEFAULT_IMAGES
from alexnet_deploy.precision.thresholds import METHODS

if TYPE_CHECKING:
    from alexnet_deploy.sensitivity.stability import Stability


def calibration_stability(
    onnx: Annotated[Path, typer.Argument(help="A float classifier as ONNX: ours, or of another tool.")],
    calibration_data: Annotated[Path, typer.Option(help="Folder of images like those of production.")],
    calibration_images: Annotated[int, typer.Option(help="How many of them each calibration uses.")] = DEFAULT_IMAGES,
    calibration_method: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(METHODS)} [default: entropy; max for --fp8].")
    ] = None,
    fp8: Annotated[bool, typer.Option("--fp8", help="Of float8 E4M3 instead of int8.")] = False,
    seeds: Annotated[int, typer.Option(help="How many draws of images to compare.")] = 5,
    batch_sizes: Annotated[
        str | None, typer.Option(help="Batch sizes to compare, over the first draw [default: 1,16,32].")
    ] = None,
    validation_data: Annotated[
        Path | None, typer.Option(help="Folder with one folder of images a class: compare top-1 on it, too.")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="Regular expression of nodes not to quantise.")] = None,
    runtime: Runtime = "auto",
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    json_: Json = False,
) -> None:
    """Repeat a calibration over seeds and batch sizes: how far do the scales, and the accuracy, spread?"""
    from alexnet_deploy.precision.convert import method_for
    from alexnet_deploy.precision.qdq import Quantized
    from alexnet_deploy.sensitivity.stability import draw, measure_stability

    kind: Quantized = "fp8" if fp8 else "int8"
    method = choice("--calibration-method", calibration_method, METHODS) if calibration_method else None
    method = method_for(kind, method)
    refuse_bundle(onnx, STORE)
    sizes = whole_numbers("--batch-sizes", batch_sizes) if batch_sizes else None
    with progress_bars() as progress:
        found = measure_stability(
            onnx,
            draw(calibration_data, images=calibration_images, seeds=seeds, validation_data=validation_data),
            kind=kind,
            method=method,
            batch_sizes=sizes,
            exclude=exclude,
            validation_data=validation_data,
            runtime=runtime,
            import_options=import_options_of(mean, std, labels),
            on_progress=steps_into(progress),
        )
    if json_:
        raw = dataclasses.asdict(found)
        raw["scales"] = [row | {"ratio": spread.ratio} for row, spread in zip(raw["scales"], found.scales, strict=True)]
        print(json.dumps(raw, indent=1, ensure_ascii=False))
    else:
        show(found)


def show(found: Stability) -> None:
    """A row a tensor, then what batch sizes and draws did."""
    kind = f"{found.kind}+fp16" if found.high == "fp16" else found.kind
    out.print(
        f"{kind} by {found.method}, {found.seeds} draws of {found.images} "
        f"calibration images (seeds {found.first_seed}..{found.first_seed + found.seeds - 1})",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "its input"):
        table.add_column(column, overflow="fold")
    for column in ("smallest scale", "median", "largest", "largest/smallest"):
        table.add_column(column, justify="right")
    for row in found.scales:
        numbers = (f"{value:.6g}" for value in (row.smallest, row.median, row.largest))
        table.add_row(row.layer, row.tensor, *numbers, f"{row.ratio:.3f}")
    out.print(table)
    sizes = ", ".join(map(str, found.batch_sizes))
    differ = found.batch_difference
    said = f"scales that differ by up to {100 * differ:.2g} %" if differ else "the same scales to the last bit"
    out.print(f"batch sizes {sizes}: {said}")
    if found.top1_percent:
        each = ", ".join(f"{value:.2f}" for value in found.top1_percent)
        out.print(
            f"top-1 on {found.validation_images} validation images: {each} % "
            f"(spread {max(found.top1_percent) - min(found.top1_percent):.2f}; float {found.float_top1_percent:.2f} %)",
            soft_wrap=True,
        )
