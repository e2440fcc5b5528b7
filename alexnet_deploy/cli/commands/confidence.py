"""Make a bundle's probabilities believable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.cli.commands import show_confidence
from alexnet_deploy.cli.engines import needs, running
from alexnet_deploy.cli.options import STORE, Json, Runtime, Store, Threads
from alexnet_deploy.cli.terminal import err, out, progress_bars, steps_into


def calibrate_confidence(
    engine: Annotated[str, typer.Argument(help="Bundle: a name in the store, or a path.")],
    data: Annotated[Path, typer.Option(help="Folder with one folder of images a class, for nothing but this.")],
    evaluation_data: Annotated[
        Path | None, typer.Option(help="Folder that accuracy is measured on: must not share an image.")
    ] = None,
    training_data: Annotated[
        Path | None, typer.Option(help="Folder that the model was trained on: must not share an image.")
    ] = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the reliability diagram into a .png, .svg or .pdf.")] = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Fit the temperature of a bundle: probabilities that are right as often as they say. Answers stay the same."""
    with needs("measure"):
        from alexnet_deploy.evaluation.temperature import calibrate

        if plot is not None:
            from alexnet_deploy.report.plots import check_target
            from alexnet_deploy.report.reliability_plot import plot_reliability

            check_target(plot)
    directory = find_bundle(engine, engines)
    flags = {"--evaluation-data": evaluation_data, "--training-data": training_data}
    with running(str(directory), engines, runtime, threads) as (_, runner), progress_bars() as progress:
        report = steps_into(progress)
        record = calibrate(
            directory,
            runner,
            data,
            disjoint={flag: folder for flag, folder in flags.items() if folder is not None},
            on_progress=lambda done, total: report("images", done, total),
        )
    show_confidence.fit(out, directory, record, as_json=json_)
    if plot is not None:
        plot_reliability(record, plot)
        err.print(f"wrote {plot}", soft_wrap=True)
