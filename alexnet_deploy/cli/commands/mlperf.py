"""Engines in MLPerf's scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_mlperf
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import (
    STORE,
    Json,
    Labels,
    Mean,
    Runtime,
    Std,
    Store,
    Threads,
    choice,
    import_options_of,
)
from alexnet_deploy.cli.terminal import err, out

LOGS = Path("mlperf")


def mlperf(
    engine: Annotated[str | None, typer.Argument(help="Bundle or ONNX file [default: newest bundle].")] = None,
    scenario: Annotated[str, typer.Option(help="SingleStream, MultiStream, Server, Offline or all.")] = "all",
    data: Annotated[
        Path | None, typer.Option(help="Folder of images [default: random pixels]; with --accuracy one folder a class.")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="LoadGen's accuracy mode: each image once, instead of performance.")
    ] = False,
    runtime: Runtime = "auto",
    threads: Threads = None,
    concurrency: Annotated[int, typer.Option(help="Requests that run at the same time.")] = 1,
    max_batch: Annotated[
        int | None, typer.Option(help="Images a request at most, of those that wait [default: the fastest up to 32].")
    ] = None,
    latency_bound_ms: Annotated[
        float, typer.Option(help="Server: what the 99th percentile must meet; MLPerf's ResNet-50 has 15.")
    ] = 15.0,
    duration_s: Annotated[float, typer.Option(help="Seconds a run at least; a submission to MLPerf needs 600.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of LoadGen's choices, and of random pixels.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for LoadGen's logs, one a scenario [default: mlperf/<engine>].")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure an engine in MLPerf's scenarios, through MLPerf's LoadGen, on this machine."""
    with needs("mlperf"):
        from alexnet_deploy.profiling.mlperf.run import Options, run_scenarios
        from alexnet_deploy.profiling.mlperf.worker import SCENARIOS
    from alexnet_deploy.bundle.store import resolve_engine
    from alexnet_deploy.profiling.mlperf.results import refuse_invalid

    options = Options(
        data=data,
        accuracy=accuracy,
        runtime=runtime,
        threads=threads,
        streams=concurrency,
        max_batch=max_batch,
        latency_bound_ms=latency_bound_ms,
        min_duration_s=duration_s,
        seed=seed,
    )
    chosen = choice("--scenario", scenario, (*SCENARIOS, "all"))
    scenarios = [known for known in SCENARIOS if chosen in (known, "all")]
    with resolve_engine(engine, engines, import_options_of(mean, std, labels)) as found:
        report = run_scenarios(
            found,
            scenarios,
            options,
            output or LOGS / found.name,
            on_progress=lambda said: err.print(said, style="dim", soft_wrap=True),
        )
    if json_:
        show_mlperf.as_json(found, options, report)
    else:
        show_mlperf.tables(out, found, options, report)
    refuse_invalid(report)
