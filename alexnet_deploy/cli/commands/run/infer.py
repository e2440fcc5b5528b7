"""``infer``: photos to labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.collector import starting
from alexnet_deploy.cli.engines import note_other_runtime, running
from alexnet_deploy.cli.infer_rows import print_rows, write_rows
from alexnet_deploy.cli.on_ray import infer_on_ray
from alexnet_deploy.cli.output.image_bars import count_meanwhile, image_bars
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.terminal import note
from alexnet_deploy.cli.signals import stop_on_signals
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.prediction import BATCH, TOP_K, FullOutputs, Outputs, Prediction
from alexnet_deploy.inference.writers import Format

if TYPE_CHECKING:
    from alexnet_deploy.cli.infer_rows import Rounds
    from alexnet_deploy.images.sources import Source

_BY_SUFFIX: dict[str, Format] = {
    "": "table",
    ".txt": "table",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_REMOTE_WORKERS = 16
"""Addresses are waited for rather than computed. More connections than this annoy a server."""


@opt.with_import_options
def infer(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Image files, folders, glob patterns, addresses (https://, s3:// and others), or - for the standard "
            "input: one image, or a list.",
        ),
    ] = None,
    engine: opt.Engine = None,
    runtime: opt.Runtime = "auto",
    top_k: Annotated[
        int | None, typer.Option(help=f"Number of classes to print per image.  [default: {TOP_K}]")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Minimum probability of a printed class, 0 to 1; may leave none.")
    ] = None,
    outputs: Annotated[
        Outputs, typer.Option(help="top: the best classes; or a number for every class, in the order of the model.")
    ] = "top",
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Average ten views of each image: more accurate, and ten times as slow.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(help=f"Number of images per call.  [default: {BATCH}, or near it a multiple of the engine's]"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help=f"Number of decoding threads.  [default: one per core; {_REMOTE_WORKERS} for addresses on the command "
            "line]"
        ),
    ] = None,
    threads: opt.Threads = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Format of the output. In csv, ' precedes text that looks like a formula.  [default: by "
            "--output's suffix, a table without one; parquet with --ray]",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File to write; it appears at the end, and a journal beside it keeps the rows until then. With --ray "
            "a folder, or an address such as s3://.  [default: stdout]",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the --output of a run that was ended; inputs that failed are tried again."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard the rows that an ended run left for --resume.")
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="List of images, one per line or between NUL bytes; - for standard input."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N, from 1/N to N/N: the same part on every machine."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Use all machines of the Ray cluster at HOST:PORT, or local: this machine."
        ),
    ] = None,
    part_size: Annotated[
        int | None, typer.Option(help="Number of images per file of --ray.  [default: 1024]", metavar="N")
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to watch: new images are classified until Ctrl-C or SIGTERM."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Accept http:// addresses.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Try the engine and the runtime on the sample photos, once."),
    ] = True,
    full_decode: opt.FullDecode = False,
    tf32: opt.Tf32 = False,
    device: opt.Device = None,
    # Other commands have it. Here it is an error that names the format to give.
    json_: Annotated[bool, typer.Option("--json", hidden=True, help="Refused: give --format jsonl.")] = False,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
) -> None:
    """Classify images: a row per image, best label first.

    Exit code 0: all classified; 1: error; 2: usage; 3: finished, but some inputs failed.
    """
    with starting():
        from alexnet_deploy.images.sources import Shard, find_sources, is_address
        from alexnet_deploy.images.ten_crops import NO_MARGIN, NO_RULE, has_margin
        from alexnet_deploy.inference.predict import predict, require_threshold

    if json_:
        raise UsageError("`json`: infer writes rows; its JSON is `format` jsonl, one object per line: give that")
    named = images or []
    _check(named, from_file, watch, output, ray, part_size, resume=resume, overwrite=overwrite)
    require_threshold(threshold)
    if outputs != "top" and not (top_k is None and threshold is None):
        given_one = "threshold" if top_k is None else "top_k"
        raise UsageError(f"`{given_one}`: `outputs` {outputs} has a number for every class; leave one of them out")
    top_k = TOP_K if top_k is None else top_k
    part = None if shard is None else Shard.parse(shard)
    if workers is None and any(map(is_address, named)):
        workers = _REMOTE_WORKERS
    if ray is not None:
        if tf32:
            raise UsageError(
                "`tf32`: machines with different GPUs would differ in their answers; leave it out with `ray`"
            )
        if device is not None:
            raise UsageError("`device` is about the GPUs of this machine; leave it out with `ray`")
        rows, failed = infer_on_ray(
            lambda: find_sources(named, from_file=from_file, shard=part, allow_http=allow_http),
            output, ray, format_=format_, watch=watch, part_size=part_size, resume=resume, overwrite=overwrite,
            compute={"runtime": runtime, "threads": threads, "workers": workers, "top_k": top_k,
                     "batch": BATCH if batch is None else batch, "threshold": threshold, "verify": verify,
                     "outputs": outputs, "ten_crop": ten_crop, "full_decode": full_decode},
            engine=engine, store=store, import_options=import_options, shaping={"shard": part},
        )  # fmt: skip
        _exit_if_failed(failed, rows)
        return
    file = None if output is None else Path(output)
    if file is not None:
        given = (engine, import_options.labels, from_file, *named)
        check_output(file, "output", given)
    format_ = format_ or _format_of(file)
    with stop_on_signals(watch is not None) as stop:
        if watch is not None:
            from alexnet_deploy.images.watch import watch_folder

            rounds: Rounds = watch_folder(watch, stop, shard=part)
        else:
            rounds = iter([find_sources(named, from_file=from_file, shard=part, allow_http=allow_http)])
        with (
            running(
                engine, store, runtime, threads, import_options, device=device, verify=verify,
                full_decode=full_decode, tf32=tf32,
            ) as opened,
            image_bars() as bars,
        ):  # fmt: skip
            size = opened.default_batch(ten_crop=ten_crop) if batch is None else batch
            if ten_crop and not has_margin(opened.contract.preprocessing):
                note(NO_MARGIN, style="yellow")
            if ten_crop and opened.contract.rejection is not None:
                note(NO_RULE, style="yellow")
            elif opened.contract.rejection is not None:
                note_other_runtime(opened)
            runner = opened.side_by_side() or opened

            def classify(found: Iterator[Path | Source]) -> Iterator[Prediction]:
                return predict(
                    runner, found, top_k=top_k, threshold=threshold, outputs=outputs, ten_crop=ten_crop, batch=size,
                    workers=workers,
                )  # fmt: skip

            task = bars.add_task("images", total=None)
            if not (bars.disable or watch or from_file) and not any(name == "-" or is_address(name) for name in named):
                count_meanwhile(bars, task, lambda: find_sources(named, shard=part))

            def show(rows: int) -> None:
                bars.update(task, completed=rows)

            columns = min(top_k, len(opened.contract.labels))
            full = FullOutputs.of(opened.contract, outputs)
            if file is None:
                rows, failed = print_rows(classify, rounds, format_, columns, full, show)
            else:
                shaping = {"top_k": columns, "threshold": threshold, "outputs": outputs, "ten_crop": ten_crop,
                           "shard": part}  # fmt: skip
                rows, failed = write_rows(
                    classify, rounds, file, engine, opened, shaping, full, show,
                    format_=format_, resume=resume, overwrite=overwrite, watching=watch is not None,
                )  # fmt: skip
    _exit_if_failed(failed, rows)


def _format_of(file: Path | None) -> Format:
    """The format that the name of the file says; UsageError for another name, as no ``.json`` holds a table."""
    if file is None:
        return "table"
    found = _BY_SUFFIX.get(file.suffix.lower())
    if found is None:
        raise UsageError(
            f"`output` {file}: {file.suffix!r} is the suffix of no format; end it in .jsonl, .csv, .parquet or .txt (a "
            "table), or give `format`"
        )
    return found


def _exit_if_failed(failed: int, rows: int) -> None:
    if failed:
        note(f"{failed} of {rows} inputs failed; their rows contain the reason", style="yellow")
        raise typer.Exit(3)


def _check(
    images: list[str],
    from_file: Path | None,
    watch: Path | None,
    output: str | None,
    ray: str | None,
    part_size: int | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    from alexnet_deploy.images.sources import is_address

    if ray is None and part_size is not None:
        raise UsageError("`part_size` is about the files of `ray`; give `ray`, or leave it out")
    if ray is None and output is not None and is_address(output):
        raise UsageError(f"`output` {output}: is an address, which only `ray` writes to; name a file")
    if watch is not None and (images or from_file):
        raise UsageError("`watch` takes no other images; name them in a run of their own")
    if (resume or overwrite) and output is None:
        raise UsageError(f"`{'resume' if resume else 'overwrite'}` is about a file; give `output`")
    if resume and overwrite:
        raise UsageError("`resume` and `overwrite` cannot be combined; choose one")
