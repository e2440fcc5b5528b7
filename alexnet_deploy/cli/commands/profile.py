"""Latency of engines."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.bundle.store import resolve_engine, some_bundle_names
from alexnet_deploy.cli.commands import show_profile
from alexnet_deploy.cli.options import (
    STORE,
    Json,
    Labels,
    Mean,
    Runtime,
    Std,
    Store,
    Threads,
    import_options_of,
    whole_numbers,
)
from alexnet_deploy.cli.terminal import err, out
from alexnet_deploy.errors import DeployError
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS


def profile(
    engine: Annotated[list[str] | None, typer.Argument(help="Bundles or ONNX files; else all of the store.")] = None,
    batch: Annotated[str, typer.Option(metavar="N,N,…", help="Images a call; several are measured in turn.")] = "1",
    concurrency: Annotated[int, typer.Option(help="Threads that call at the same time.")] = 1,
    runtime: Runtime = "auto",
    threads: Threads = None,
    duration: Annotated[float, typer.Option(help="Seconds to measure at least.")] = 3.0,
    warmup: Annotated[float, typer.Option(help="Milliseconds of warm-up before.")] = 200.0,
    iterations: Annotated[int, typer.Option(help="Calls to measure at least.")] = 10,
    export_times: Annotated[Path | None, typer.Option(help="JSON file to write: the time of every call.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if a row is unstable or invalid.")] = False,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure the latency of engines by trtexec's rules, each in a process of its own, until it is steady."""
    from alexnet_deploy.profiling import engine as engine_profile
    from alexnet_deploy.profiling.isolated import profile_engine

    settings = engine_profile.Settings(
        whole_numbers("--batch", batch), concurrency, runtime, threads, duration, warmup / 1000, iterations
    )
    foreign = import_options_of(mean, std, labels)
    names = engine or some_bundle_names(engines)
    has_onnx = any(name.endswith(".onnx") for name in names)
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                resolve_engine(name, engines, foreign if name.endswith(".onnx") or not has_onnx else NO_IMPORT_OPTIONS)
            )
            for name in names
        ]
        for each in found:
            engine_profile.refuse_batches(each, settings.batches)
        write = None if export_times is None else stack.enter_context(engine_profile.export_times(export_times))
        measured: list[engine_profile.EngineProfile] = []
        failed: list[DeployError] = []
        for each in found:
            err.print(f"measuring {each.name} ({each.precision})", style="dim", soft_wrap=True)
            try:
                measured.append(profile_engine(each, settings))
                for reason in measured[-1].passed_over:
                    err.print(f"passed over {reason}", style="dim", soft_wrap=True)
            except DeployError as exc:
                failed.append(exc)
        if not measured:
            raise failed[0]
        if write is not None:
            write(measured)
    show_profile.profiles(out, measured, as_json=json_)
    for failure in failed[1:]:
        err.print(f"error: {failure}", style="red", soft_wrap=True)
    if failed:
        raise failed[0]
    if strict and any(row.mark != "ok" for each_ in measured for row in each_.rows):
        raise typer.Exit(1)
