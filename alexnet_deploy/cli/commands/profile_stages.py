"""Where the time of ``infer`` goes."""

from __future__ import annotations

from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_profile_stages
from alexnet_deploy.cli.engines import running
from alexnet_deploy.cli.options import STORE, Json, Labels, Mean, Runtime, Std, Store, Threads, import_options_of
from alexnet_deploy.cli.terminal import err, out, progress_bars, steps_into


def profile_stages(
    images: Annotated[list[str], typer.Argument(help="Image files, folders (recursive) and glob patterns.")],
    engine: Annotated[
        str | None, typer.Option(help="Bundle (name or path) or ONNX file; else the newest bundle of the store.")
    ] = None,
    runtime: Runtime = "auto",
    batch: Annotated[int, typer.Option(help="Images computed at once.")] = 32,
    workers: Annotated[int | None, typer.Option(help="Decoding threads [default: one a core].")] = None,
    threads: Threads = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Time every stage from file to answer within one run, beside decoding alone and the engine alone.

    Exit code 3: finished, but some images cannot be used.
    """
    from alexnet_deploy.images.find import find_images
    from alexnet_deploy.profiling.stages import profile_stages as measured

    files = list(find_images(images))
    with (
        running(engine, engines, runtime, threads, import_options_of(mean, std, labels)) as (found, runner),
        progress_bars() as progress,
    ):
        report = steps_into(progress)
        result = measured(
            runner,
            files,
            batch=batch,
            workers=workers,
            on_progress=lambda done, total: report("images", done, total),
        )
    show_profile_stages.stages(out, found, result, as_json=json_)
    if result.failed:
        err.print(f"{result.failed} of {result.images} images cannot be used: infer says why", style="yellow")
        raise typer.Exit(3)
