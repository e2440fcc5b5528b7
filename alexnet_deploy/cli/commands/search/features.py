"""``features``, ``neighbours``, ``duplicates``: what an engine sees in images, and the images in which it is alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.collector import starting
from alexnet_deploy.cli.engines import needs, running
from alexnet_deploy.cli.output import replace
from alexnet_deploy.cli.output.image_bars import count_meanwhile, image_bars
from alexnet_deploy.cli.output.likeness import print_duplicates, print_neighbours
from alexnet_deploy.cli.output.tables import print_json, print_line, size
from alexnet_deploy.cli.output.terminal import note, note_written
from alexnet_deploy.errors import InputError, UsageError

if TYPE_CHECKING:
    from alexnet_deploy.features.space import FeatureSpace

Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="Layer whose output is wanted, such as classifier.5; an unknown one lists all.  [default: the one before "
        "the last]",
    ),
]
Batch = Annotated[int | None, typer.Option(help="Number of images per call.")]
Html = Annotated[Path | None, typer.Option("--html", help="HTML page of pictures to write.")]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Try the engine and the runtime on the sample photos, once.")
]
_SHOWN = 1000
"""Reasons in the JSON; their number is there too."""


@opt.with_import_options
def features(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES", help="Image files, folders, glob patterns, addresses (https://, s3:// and others), or -."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .parquet or .npz; it appears at the end.")
    ] = None,
    engine: opt.Engine = None,
    layer: Layer = None,
    runtime: opt.Runtime = "auto",
    batch: Batch = None,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    from_file: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="List of images, one per line or between NUL bytes; - for standard input."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Accept http:// addresses.")] = False,
    verify: Verify = True,
    full_decode: opt.FullDecode = False,
    tf32: opt.Tf32 = False,
    device: opt.Device = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Write the features of images: the output of a layer.

    Of a quantised engine the numbers are dequantised. Exit code 3: finished, but some images could not be read.
    """
    if output is None:
        raise UsageError("`output` is missing; give a file that ends in .parquet or .npz")
    with starting():
        from alexnet_deploy.features.extract import extract_features
        from alexnet_deploy.features.index import check_output
        from alexnet_deploy.images.identity.overwrite import refusing_to_replace
        from alexnet_deploy.images.sources import find_sources, is_address

    check_output(output)
    named = images or []
    given = (engine, import_options.labels, from_file, *named)
    replace.check_output(output, "output", given)
    sources = find_sources(named, from_file=from_file, allow_http=allow_http)
    failed: list[str] = []
    how = {"verify": verify, "full_decode": full_decode, "tf32": tf32}
    with (
        running(
            engine, store, runtime, threads, import_options, device=device, features=True, layer=layer, **how
        ) as opened,
        image_bars() as bars,
    ):
        task = bars.add_task("images", total=None)
        if not bars.disable and not from_file and not any(name == "-" or is_address(name) for name in named):
            count_meanwhile(bars, task, lambda: find_sources(named))
        started = time.perf_counter()
        found = extract_features(
            opened,
            refusing_to_replace(sources, output),
            output,
            batch=batch,
            workers=workers,
            on_rows=lambda rows: bars.update(task, completed=rows),
            on_failure=lambda reason: _report(reason, failed),
        )
        seconds = time.perf_counter() - started
    ends = found.space.features
    if json_:
        print_json(
            {
                "output": output,
                "bytes": output.stat().st_size,
                "rows": found.rows,
                "failed": found.failed,
                "errors": failed,
                "engine": found.space.engine,
                "precision": found.space.precision,
                "runner": found.space.runtime,
                "layer": ends.layer,
                "shape": ends.shape,
                "sha256": ends.sha256,
                "seconds": seconds,
            }
        )
    else:
        print_line(
            f"{output}  {size(output.stat().st_size)}  {found.rows} vectors of {ends.width}: layer {ends.layer} "
            f"{list(ends.shape)}, {(found.rows + found.failed) / seconds:.0f} images/s"
        )
    _exit_if_failed(found.failed, found.rows + found.failed)


@opt.with_import_options
def neighbours(
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="Images, folders or patterns to look up.")],
    index: Annotated[Path, typer.Option(help="File that features wrote.")],
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", autocompletion=opt.complete_engine, help="Engine of the index.  [default: the one it names]"
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of neighbours per query.")] = 5,
    metric: Annotated[
        Literal["cosine", "l2"], typer.Option(help="cosine of the angle, or l2: the distance, as in the 2012 paper.")
    ] = "cosine",
    html: Html = None,
    runtime: opt.Runtime = "auto",
    batch: Batch = None,
    threads: opt.Threads = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Find the images nearest to a query, by features.

    Every row of the index is compared, so none is missed. Exit code 3: finished, but some queries could not be read.
    """
    with starting():
        from alexnet_deploy.features.index import open_index
        from alexnet_deploy.features.neighbours import neighbours_in, require_same_space
        from alexnet_deploy.images.sources import find_sources

    _check_html(html)
    sources = find_sources(queries)
    with open_index(index) as found:
        space, rows = found.space, found.rows
        name = _engine_of(space, index, store) if engine is None else engine
        full = space.preprocessing.decoding == "full"
        layer = space.features.layer
        with running(
            name, store, runtime, threads, import_options, features=True, layer=layer, full_decode=full
        ) as opened:
            require_same_space(found, opened)
            answers = neighbours_in(found, opened, sources, top=top, metric=metric, batch=batch)
    if html is not None:
        from alexnet_deploy.features.sheet import write_neighbours

        write_neighbours(answers, metric, space, html)
        note_written(html)
    if json_:
        print_json(
            {
                "index": index,
                "rows": rows,
                "engine": space.engine,
                "layer": space.features.layer,
                "metric": metric,
                "queries": [answer.as_row(metric) for answer in answers],
            }
        )
    else:
        print_neighbours(answers, metric)
    _exit_if_failed(sum(answer.error is not None for answer in answers), len(answers))


@opt.with_import_options
def duplicates(
    images: opt.Images,
    engine: opt.Engine = None,
    threshold: Annotated[
        float, typer.Option(metavar="P", help="Least likeness of near copies, up to 1: the same picture.")
    ] = 0.85,
    html: Html = None,
    runtime: opt.Runtime = "auto",
    batch: Batch = None,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Find exact and near copies among images.

    Exact copies have the same bytes; near ones look alike to the engine and pixel by pixel: another size, another
    quality, brighter, cropped a little. Exit code 3: finished, but some images could not be read.
    """
    with starting():
        from alexnet_deploy.bundle.feature_engines import MAPS
        from alexnet_deploy.bundle.store import newest_bundle
        from alexnet_deploy.features.duplicates import find_duplicates
        from alexnet_deploy.images.find import find_images

    _check_html(html)
    files = find_images(images)
    # The last hidden layer, where a feature engine ends, tells copies badly: the default is a whole network.
    named = str(newest_bundle(store)) if engine is None else engine
    with (
        running(named, store, runtime, threads, import_options, features=True, layer=MAPS) as opened,
        image_bars() as bars,
    ):
        task = bars.add_task("images", total=None)
        found = find_duplicates(
            opened,
            files,
            threshold=threshold,
            batch=batch,
            workers=workers,
            on_images=lambda done, total: bars.update(task, completed=done, total=total),
        )
    for reason in found.failed:
        note(reason, style="red")
    if html is not None:
        from alexnet_deploy.features.sheet import write_duplicates

        write_duplicates(found, html)
        note_written(html)
    if json_:
        print_json(found)
    else:
        print_duplicates(found)
    _exit_if_failed(len(found.failed), found.images)


def _check_html(html: Path | None) -> None:
    """Raise now what would stop the page after the work."""
    if html is None:
        return
    replace.check_output(html, "html", formats=(".html", ".htm"))
    with needs("measure"):
        import alexnet_deploy.features.sheet  # noqa: F401


def _engine_of(space: FeatureSpace, index: Path, store: Path) -> str:
    """The engine that an index names, if the store has it."""
    from alexnet_deploy.bundle.store import find_bundle

    try:
        find_bundle(space.engine, store)
    except InputError as exc:
        raise UsageError(
            f"`engine` is missing: {index} was made with {space.engine}, which is not in {store}/; name it"
        ) from exc
    return space.engine


def _report(reason: str, failed: list[str]) -> None:
    note(reason, style="red")
    if len(failed) < _SHOWN:
        failed.append(reason)


def _exit_if_failed(failed: int, images: int) -> None:
    if failed:
        note(f"{failed} of {images} images could not be used; the reasons are above", style="yellow")
        raise typer.Exit(3)
