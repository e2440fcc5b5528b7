"""The main job: export, build-engine, infer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from alexnet_deploy.bundle.manifest import CALIBRATION
from alexnet_deploy.cli.commands import show
from alexnet_deploy.cli.commands.stability import show as show_stability
from alexnet_deploy.cli.engines import needs, running
from alexnet_deploy.cli.options import (
    DEFAULT_ONNX,
    STORE,
    Json,
    Labels,
    Mean,
    Runtime,
    Std,
    Store,
    Threads,
    batch_profile,
    choice,
    import_options_of,
    precision_of,
)
from alexnet_deploy.cli.terminal import bytes_into, err, out, progress_bars, steps_into
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.choose import DEFAULT_IMAGES
from alexnet_deploy.precision.thresholds import METHODS


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")] = DEFAULT_ONNX,
    weights: Annotated[
        str | None,
        typer.Option(
            help="checkpoint.safetensors, a published .pth (path or URL), or imagenet1k; else the shipped one."
        ),
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture of a .pth file (see summary --help).")] = None,
    parity_images: Annotated[
        Path | None, typer.Option(help="Folder of images to prove parity on; else the sample photos.")
    ] = None,
    json_: Json = False,
) -> None:
    """Export a checkpoint to ONNX (uint8 pixels in, logits out) and prove that it answers as torch does."""
    with needs("export"):
        from alexnet_deploy.model.checkpoint import load_weights
        from alexnet_deploy.model.export import export_onnx
    from alexnet_deploy.images.samples import parity_pixels

    with progress_bars() as progress:
        checkpoint = load_weights(weights, arch, on_progress=bytes_into(progress, "weights"))
    pixels_NHWC = parity_pixels(parity_images, checkpoint.contract.preprocessing)
    parity = export_onnx(checkpoint, output, pixels_NHWC=pixels_NHWC)
    show.parity(out, output, checkpoint.contract, parity, as_json=json_)


def build_engine(
    onnx: Annotated[Path, typer.Argument(help="A classifier as ONNX: ours, or of another tool.")] = DEFAULT_ONNX,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write; else <store>/<model>-<precision>.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="float16; with --int8 or --fp8, what is not quantised.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="int8 convolutions and dense layers; needs calibration.")
    ] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="float8 E4M3 instead of int8; sm89 and later.")] = False,
    calibration_data: Annotated[Path | None, typer.Option(help="Folder of images like those of production.")] = None,
    calibration_images: Annotated[int, typer.Option(help="How many of them to use.")] = DEFAULT_IMAGES,
    calibration_method: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(METHODS)} [default: entropy; max for --fp8].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which images calibrate.")] = 0,
    calibration_cache: Annotated[
        bool,
        typer.Option(
            "--calibration-cache/--no-calibration-cache",
            help="Keep and reuse calibration values of the same images, weights and versions.",
        ),
    ] = True,
    stability: Annotated[
        bool,
        typer.Option(
            "--stability", help="Repeat the calibration over seeds and batch sizes, too, and show the spread."
        ),
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(help="sm75, sm80, sm86, sm89, sm120, sm121, portable, all or current; may be repeated."),
    ] = None,
    min_batch: Annotated[int | None, typer.Option(help="Smallest batch of the plan [default: 1].")] = None,
    opt_batch: Annotated[int | None, typer.Option(help="Batch to tune for [default: 8].")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Largest batch of the plan [default: 32].")] = None,
    exclude: Annotated[str | None, typer.Option(help="Regular expression of nodes not to quantise.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of top-1 that int8 or fp8 may cost; the worst layers become float16 until it holds."),
    ] = None,
    validation_data: Annotated[
        Path | None,
        typer.Option(help="Labelled folder for --max-drop and --stability; not the one that calibrates."),
    ] = None,
    allow_fallback: Annotated[
        list[str] | None, typer.Option(help="Node that may miss its precision; a name or regular expression.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Build an engine bundle: typed ONNX plus TensorRT plans, with the achieved precision proved."""
    # What --max-drop keeps is float16.
    precision = precision_of(fp16=fp16 or max_drop is not None, int8=int8, fp8=fp8)
    method = choice("--calibration-method", calibration_method, METHODS) if calibration_method else None
    if calibration_data is not None and not (int8 or fp8):
        raise UsageError("--calibration-data has no use without --int8 or --fp8; add one, or leave it out")
    if max_drop is not None and validation_data is None:
        raise UsageError("--max-drop is a bound on the images of --validation-data: give both, or neither")
    if validation_data is not None and max_drop is None and not stability:
        raise UsageError("--validation-data has no use without --max-drop or --stability; add one, or leave it out")
    if stability and calibration_data is None:
        raise UsageError("--stability repeats the calibration of --int8 or --fp8; add one, with --calibration-data")
    if stability and json_:
        raise UsageError("--stability prints a table; for JSON: alexnet-deploy calibration-stability --json")
    if max_drop is not None and not (int8 or fp8):
        raise UsageError("--max-drop bounds what --int8 or --fp8 costs; add one, or leave it out")
    batch = batch_profile(min_batch, opt_batch, max_batch)
    from alexnet_deploy.build.engine import build_engine
    from alexnet_deploy.build.options import Bound, EngineOptions
    from alexnet_deploy.images.choose import choose_images
    from alexnet_deploy.precision.calibration_cache import default_folder

    bound = None if max_drop is None or validation_data is None else Bound(max_drop, validation_data)
    chosen, draws = None, None
    if stability and calibration_data is not None:
        from alexnet_deploy.sensitivity.stability import draw

        # Before the build: folders that share an image are no reason to find only then that all was for nothing.
        draws = draw(calibration_data, images=calibration_images, first_seed=seed, validation_data=validation_data)
        chosen = draws[0]
    elif calibration_data is not None:
        chosen = choose_images(calibration_data, count=calibration_images, seed=seed)
    options = EngineOptions(
        precision=precision,
        batch=batch,
        targets=tuple(target or ()),
        calibration=chosen,
        method=method,
        exclude=exclude,
        calibration_cache=default_folder() if calibration_cache else None,
        bound=bound,
        allow_fallback=tuple(allow_fallback or ()),
        import_options=import_options_of(mean, std, labels),
    )
    bundle = output or engines / f"{onnx.stem}-{precision.replace('+', '-')}"
    with progress_bars() as progress:
        manifest = build_engine(onnx, bundle, options, on_progress=steps_into(progress))
    show.bundle(out, bundle, manifest, as_json=json_)
    if draws is not None:
        from alexnet_deploy.precision.calibration_record import read_record
        from alexnet_deploy.sensitivity.stability import measure_stability

        record = read_record(bundle / CALIBRATION)  # its --exclude names what --max-drop kept, too
        with progress_bars() as progress:
            found = measure_stability(
                onnx,
                draws,
                kind="int8" if int8 else "fp8",
                method=record.method,
                high="fp16" if record.precision.endswith("+fp16") else "fp32",
                exclude=record.exclude,
                validation_data=validation_data,
                import_options=options.import_options,
                on_progress=steps_into(progress),
            )
        show_stability(found)


def infer(
    images: Annotated[list[str], typer.Argument(help="Image files, folders (recursive) and glob patterns.")],
    engine: Annotated[
        str | None, typer.Option(help="Bundle (name or path) or ONNX file; else the newest bundle of the store.")
    ] = None,
    runtime: Runtime = "auto",
    top_k: Annotated[int, typer.Option(help="Answers an image.")] = 5,
    batch: Annotated[int, typer.Option(help="Images computed at once.")] = 32,
    workers: Annotated[int | None, typer.Option(help="Decoding threads [default: one a core].")] = None,
    threads: Threads = None,
    format_: Annotated[str, typer.Option("--format", help="table, jsonl, csv or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the screen.")] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
) -> None:
    """Classify images: the likeliest labels with their probabilities, one row an image.

    Exit code 0: all classified; 1: error; 2: usage; 3: finished, but some inputs failed.
    """
    from alexnet_deploy.images.find import find_images
    from alexnet_deploy.inference.predict import predict
    from alexnet_deploy.inference.writers import Format, open_writer

    kind = choice("--format", format_, get_args(Format))
    files = find_images(images)
    failed = count = 0
    with running(engine, engines, runtime, threads, import_options_of(mean, std, labels)) as (found, runner):
        predictions = predict(runner, files, top_k=top_k, batch=batch, workers=workers)
        columns = min(top_k, len(found.contract.labels))
        # One console draws bar and table where both go to a terminal, so that neither writes over the other.
        screen = err if err.is_terminal and out.is_terminal else out
        with progress_bars() as progress, open_writer(kind, output, top_k=columns, console=screen) as write:
            # Counting first reads directories alone; a bar without an end would be of no use.
            total = None if progress.disable else sum(1 for _ in find_images(images))
            task = progress.add_task("images", total=total)
            for prediction in predictions:
                write(prediction)
                failed += prediction.error is not None
                count += 1
                progress.update(task, completed=count)
    if failed:
        err.print(f"{failed} of {count} inputs failed; their rows say why", style="yellow")
        raise typer.Exit(3)
