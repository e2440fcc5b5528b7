"""Accuracy of engines, each beside the first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_evaluation
from alexnet_deploy.cli.engines import exit_where_left_out, needs
from alexnet_deploy.cli.options import STORE, Json, Labels, Mean, Std, Store, Threads, import_options_of
from alexnet_deploy.cli.terminal import err, out, progress_bars, steps_into
from alexnet_deploy.errors import UsageError


def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images a class.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundle, ONNX file or checkpoint (.safetensors); may be repeated, the first is what the others are "
            "compared with; else all of the store."
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="auto, all, tensorrt, onnxruntime-cuda, openvino or onnxruntime; may be repeated."),
    ] = None,
    threads: Threads = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Exit 1 if an engine's top-1 is more than this many points below the first's.")
    ] = None,
    confident: Annotated[
        bool, typer.Option("--confident", help="--max-drop holds for the bound of the 95 % interval, too.")
    ] = False,
    gallery: Annotated[Path | None, typer.Option(help="HTML page to write: the worst flips as pictures.")] = None,
    gallery_images: Annotated[int, typer.Option(help="Pictures an engine in it.")] = 24,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Time one image, too.")] = True,
    allow_calibration_images: Annotated[
        bool,
        typer.Option("--allow-calibration-images", help="Go on where images calibrated an engine or its temperature."),
    ] = False,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables to paste.")] = False,
) -> None:
    """Measure accuracy and confidence of engines on labelled images, and what sets each apart from the first.

    Exit code 3: finished, but some images cannot be read.
    """
    if json_ and markdown:
        raise UsageError("--json and --markdown exclude each other; give one")
    if confident and max_drop is None:
        raise UsageError("--confident has no use without --max-drop; add it")
    with needs("measure"):
        from alexnet_deploy.evaluation.evaluate import LATENCY_S, check_bound, gate
        from alexnet_deploy.evaluation.evaluate import evaluate as measured

        if gallery is not None:
            from alexnet_deploy.report.gallery import check_target, gallery_of
    from alexnet_deploy.evaluation.engines import (
        calibration_overlap,
        check_runtimes,
        open_contenders,
        refuse_calibration_images,
    )
    from alexnet_deploy.images.labelled import list_labelled

    check_runtimes(runtime or [])
    if max_drop is not None:
        check_bound(max_drop)
    if gallery is not None:
        check_target(gallery, gallery_images)
    foreign = import_options_of(mean, std, labels)
    with open_contenders(engine, engines, runtime or ["auto"], threads=threads, import_options=foreign) as opened:
        contenders, passed_over = opened
        for reason in passed_over:
            err.print(f"passed over {reason}", style="dim", soft_wrap=True)
        if len(contenders) < 2 and (max_drop is not None or gallery is not None):
            flag = "--max-drop" if max_drop is not None else "--gallery"
            raise UsageError(f"{flag} compares engines with the first one; give a second --engine or --runtime")
        labelled = list_labelled(data, contenders[0].runner.contract)
        overlap = calibration_overlap(contenders, labelled)
        if not allow_calibration_images:
            refuse_calibration_images(overlap)
        with progress_bars() as progress:
            report = steps_into(progress)
            found, answers = measured(
                contenders,
                labelled,
                overlap=overlap,
                latency_s=LATENCY_S if latency else None,
                on_progress=lambda done, total: report("images", done, total),
            )
    if json_:
        show_evaluation.as_json(found)
    elif markdown:
        show_evaluation.as_markdown(found)
    else:
        show_evaluation.tables(out, found)
    if gallery is not None:
        gallery_of(found, answers, gallery, limit=gallery_images)
        err.print(f"wrote {gallery}", soft_wrap=True)
    if max_drop is not None:
        for result, pair in zip(found.engines[1:], found.pairs, strict=True):
            gate(pair, found.engines[0].name, result.name, max_drop, confident=confident)
    exit_where_left_out(found.unreadable, found.images)
