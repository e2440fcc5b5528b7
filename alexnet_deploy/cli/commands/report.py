"""Everything about the engines of a store on one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import STORE, Runtime, Store, Threads, choice, whole_numbers
from alexnet_deploy.cli.terminal import err, progress_bars, steps_into
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import check_file


def report(
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder of images a class, to measure accuracy on.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Images to time the stages on [default: those of --data].")
    ] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Bundle; may be repeated; else all of the store.")] = None,
    runtime: Runtime = "auto",
    batch: Annotated[str, typer.Option(metavar="N,N,…", help="Batch sizes to time.")] = "1,8,32",
    threads: Threads = None,
    duration: Annotated[float, typer.Option(help="Seconds to time each batch size at least.")] = 3.0,
    without: Annotated[
        str | None, typer.Option(metavar="PART,…", help="Leave out: latency, stages, layers, environment.")
    ] = None,
    allow_calibration_images: Annotated[
        bool,
        typer.Option("--allow-calibration-images", help="Go on where images calibrated an engine or its temperature."),
    ] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Draw the page of a report.json again, without measuring.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML page to write; the data go beside it, as .json.")
    ] = Path("report.html"),
    engines: Store = STORE,
) -> None:
    """Measure accuracy, latency, stages and layers of engines, and write it all as one page that needs no network."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: is an HTML page; give it a name that ends in .html")
    if (data is None) == (from_ is None):
        raise UsageError("report measures --data FOLDER, or draws --from report.json; give one of them")
    with needs("measure"):
        from alexnet_deploy.report.file import read_report, write_report
        from alexnet_deploy.report.page import write_page
    check_file(output, "--output")
    if data is None:
        assert from_ is not None
        write_page(read_report(from_), output)
        err.print(f"wrote {output}", soft_wrap=True)
        return
    from alexnet_deploy.report.measure import OPTIONAL, Wanted, measure_report

    json_file = output.with_suffix(".json")
    check_file(json_file, "--output")
    wanted = Wanted(
        data=data,
        photos=photos,
        engines=None if engine is None else tuple(engine),
        store=engines,
        runtime=runtime,
        threads=threads,
        batches=whole_numbers("--batch", batch),
        duration_s=duration,
        without=frozenset(choice("--without", part, OPTIONAL) for part in (without or "").split(",") if part),
        allow_calibration_images=allow_calibration_images,
        command=("alexnet-deploy", *sys.argv[1:]),
    )
    with progress_bars() as progress:
        found = measure_report(wanted, on_progress=steps_into(progress))
    write_report(found, json_file)
    write_page(found, output)
    for gap in found.gaps:
        err.print(
            f"gap: {gap.part}{f' of {gap.engine}' if gap.engine else ''}: {gap.reason}", style="yellow", soft_wrap=True
        )
    err.print(f"wrote {output} and {json_file}", soft_wrap=True)
