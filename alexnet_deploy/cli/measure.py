"""Accuracy and latency of engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli import show
from alexnet_deploy.cli.options import STORE, Json, Runtime, Store, Threads
from alexnet_deploy.cli.running import each_running
from alexnet_deploy.cli.terminal import out


def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images a class.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="Bundle or ONNX file; may be repeated; else all of the store.")
    ] = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure top-1 and top-5 accuracy of engines on labelled images."""
    from alexnet_deploy.evaluate import evaluate as accuracy_of

    each = each_running(engine, engines, runtime, threads)
    rows = [(found, accuracy_of(runner, data)) for found, runner in each]
    show.accuracies(out, rows, as_json=json_)


def profile(
    engine: Annotated[list[str] | None, typer.Argument(help="Bundles or ONNX files; else all of the store.")] = None,
    batch: Annotated[int, typer.Option(help="Images a call.")] = 1,
    runtime: Runtime = "auto",
    threads: Threads = None,
    duration: Annotated[float, typer.Option(help="Seconds to measure at least, after 200 ms of warm-up.")] = 3.0,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure the latency of engines, by trtexec's rules, on this machine."""
    from alexnet_deploy.latency import measure

    each = each_running(engine, engines, runtime, threads)
    rows = [(found, measure(runner, batch=batch, duration_s=duration)) for found, runner in each]
    show.latencies(out, rows, as_json=json_)
