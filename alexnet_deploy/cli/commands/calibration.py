"""``calibration-stability`` and ``calibrate-confidence``: can the scales, and the probabilities, be trusted?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs, running
from alexnet_deploy.cli.quantities import Numbers
from alexnet_deploy.cli.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.terminal import note_written, out, reporting
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import check_file
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.precision.float_source import refuse_bundle
from alexnet_deploy.sensitivity.settings import StabilitySettings

if TYPE_CHECKING:
    from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord
    from alexnet_deploy.sensitivity.stability import Stability

_DEFAULTS = StabilitySettings()


def calibration_stability(
    onnx: opt.FloatOnnx = opt.DEFAULT_ONNX,
    *,
    calibration_data: Annotated[Path, typer.Option(help="Folder of images like those of production.")],
    engine: Annotated[
        str | None,
        typer.Option(
            autocompletion=opt.complete_engine,
            help="Bundle to repeat: its precision, method, exclusions, seed and number of images.",
        ),
    ] = None,
    fp16: opt.Fp16 = False,
    int8: opt.Int8 = False,
    fp8: opt.Fp8 = False,
    calibration_images: opt.CalibrationImages = _DEFAULTS.calibration_images,
    calibration_method: opt.CalibrationMethod = None,
    exclude: opt.Exclude = None,
    seed: Annotated[int, typer.Option(help="Seed of the first choice of images; the others follow.")] = _DEFAULTS.seed,
    seeds: Annotated[int, typer.Option(help="Number of choices of images to compare.")] = _DEFAULTS.seeds,
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
    mean: opt.Mean = None,
    std: opt.Std = None,
    labels: opt.Labels = None,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Measure how much a calibration depends on its images.

    Repeats it with several choices of images and batch sizes, and shows the spread of scales and accuracy.
    """
    from alexnet_deploy.sensitivity.stability import measure_stability, settings_of

    refuse_bundle(onnx, store)
    settings = StabilitySettings(
        precision=opt.precision_of(fp16=fp16, int8=int8 or not fp8, fp8=fp8),
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        exclude=exclude,
        seed=seed,
    )
    if engine is not None:
        if settings != _DEFAULTS:
            raise UsageError("`engine` brings its own settings of the calibration; leave out the others")
        settings = settings_of(find_bundle(engine, store))
    settings = dataclasses.replace(
        settings,
        seeds=seeds,
        batch_sizes=batch_sizes,
        validation_data=validation_data,
        runtime=runtime,
        import_options=ImportOptions(mean, std, labels),
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


def calibrate_confidence(
    engine: opt.Bundle,
    *,
    data: opt.LabelledData,
    evaluation_data: Annotated[
        Path | None, typer.Option(help="Folder that accuracy is measured on; must share no image with --data.")
    ] = None,
    training_data: Annotated[
        Path | None, typer.Option(help="Folder that the model was trained on; must share no image with --data.")
    ] = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    plot: opt.Plot = None,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Fit a bundle's temperature: truthful probabilities.

    Its labels stay the same. The images must serve nothing else.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.temperature import calibrate

        if plot is not None:
            from alexnet_deploy.report.plots import FORMATS, plot_reliability

            check_file(plot, "plot", formats=FORMATS)
    bundle = find_bundle(engine, store)
    with running(bundle, store, runtime, threads) as opened, reporting() as report:
        record = calibrate(
            bundle,
            opened,
            data,
            evaluation_data=evaluation_data,
            training_data=training_data,
            on_progress=report,
        )
    if json_:
        print_json({"bundle": str(bundle)} | record.summary())
    else:
        _print_fit(bundle, record)
    if plot is not None:
        plot_reliability(record, plot)
        note_written(plot)


def _print_fit(bundle: Path, record: ConfidenceRecord) -> None:
    """The temperature and its effect on the probabilities."""
    grid = table(">temperature", ">NLL", ">ECE %")
    for temperature, quality in ((1.0, record.before), (record.temperature, record.after)):
        add_row(grid, (f"{temperature:.4f}", f"{quality.nll_nats:.4f}", f"{quality.ece_percent:.2f}"))
    out.print(grid)
    print_line(
        f"{bundle}/ now has temperature {record.temperature:.4f}, fitted on {record.images} images of {record.classes} "
        f"classes in {record.runtime}; measure it on others: alexnet-deploy evaluate"
    )
