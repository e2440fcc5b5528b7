"""What other preprocessing would do to the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_parity
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.options import STORE, Json, Labels, Mean, Runtime, Std, Store, Threads, import_options_of
from alexnet_deploy.cli.terminal import out, progress_bars, steps_into


def preprocessing_parity(
    engine: Annotated[str, typer.Argument(help="Bundle (name or path) or ONNX file.")],
    data: Annotated[Path, typer.Option(help="Folder of images like those of production, labelled or not.")],
    images: Annotated[
        int | None, typer.Option(help="How many of them, evenly from its folders [default: all].")
    ] = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Feed an engine the pixels that other decoders and resizers would make: how many answers change?

    Exit code 3: finished, but some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.preprocessing import preprocessing_parity, targets_if_labelled
    from alexnet_deploy.images.choose import choose_images
    from alexnet_deploy.images.find import find_images

    if images is None:
        files = tuple(find_images([data]))
    else:
        files = choose_images(data, count=images, flags=("--data", "--images")).files
    with (
        running(engine, engines, runtime, threads, import_options_of(mean, std, labels)) as (found, runner),
        progress_bars() as progress,
    ):
        targets, unlabelled = targets_if_labelled(data, files, found.contract)
        report = steps_into(progress)
        result = preprocessing_parity(
            runner,
            files,
            targets,
            unlabelled=unlabelled,
            on_progress=lambda done, total: report("images", done, total),
        )
    show_parity.parity(out, result, as_json=json_)
    exit_where_left_out(result.unreadable, result.images)
