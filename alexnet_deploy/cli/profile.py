"""Latency of engines."""

from __future__ import annotations

from typing import Annotated

import typer

from alexnet_deploy.cli import show
from alexnet_deploy.cli.options import STORE, Json, Runtime, Store, Threads
from alexnet_deploy.cli.running import each_running
from alexnet_deploy.cli.terminal import out


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
