"""``infer``: photos to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import running
from alexnet_deploy.cli.terminal import err, note, note_written, out, progress_bars
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.inference.writers import Format, open_writer


def infer(
    images: opt.Images,
    engine: opt.Engine = None,
    runtime: opt.Runtime = "auto",
    top_k: Annotated[int, typer.Option(help="Number of classes to print per image.")] = 5,
    batch: opt.Batch = BATCH,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    format_: Annotated[Format, typer.Option("--format", help="Format of the output.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.  [default: stdout]")] = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    labels: opt.Labels = None,
    store: opt.Store = opt.STORE,
) -> None:
    """Classify images: a row per image, best label first.

    Exit code 0: all classified; 1: error; 2: usage; 3: finished, but some inputs failed.
    """
    from alexnet_deploy.images.find import find_images

    files = find_images(images)
    failed = count = 0
    with running(engine, store, runtime, threads, opt.ImportOptions(mean, std, labels)) as opened:
        columns = min(top_k, len(opened.contract.labels))
        # If bar and table both go to a terminal, one console draws both, and neither overwrites the other.
        screen = err if err.is_terminal and out.is_terminal else out
        with progress_bars() as bars, open_writer(format_, output, top_k=columns, console=screen) as write:
            # Counting first only lists the folders, and a bar needs the total.
            total = None if bars.disable else sum(1 for _ in find_images(images))
            task = bars.add_task("images", total=total)
            for prediction in opened.predict(files, top_k=top_k, batch=batch, workers=workers):
                write(prediction)
                failed += prediction.error is not None
                count += 1
                bars.update(task, completed=count)
    if output is not None:
        note_written(output)
    if failed:
        note(f"{failed} of {count} inputs failed; their rows contain the reason", style="yellow")
        raise typer.Exit(3)
