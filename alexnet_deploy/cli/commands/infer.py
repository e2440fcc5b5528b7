"""``infer``: photos to labels."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, ProgressColumn, Task, TaskID, TimeElapsedColumn
from rich.text import Text

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import running
from alexnet_deploy.cli.terminal import err, note, note_written, out, progress_bars
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.prediction import BATCH, Prediction
from alexnet_deploy.inference.writers import Format, open_writer

if TYPE_CHECKING:
    from alexnet_deploy.images.sources import Shard, Source
    from alexnet_deploy.inference.engine import OpenEngine

    Rounds = Iterator[Iterable[Path | Source]]

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
    top_k: Annotated[int, typer.Option(help="Number of classes to print per image.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Minimum probability of a printed class, 0 to 1; may leave none.")
    ] = None,
    batch: opt.Batch = BATCH,
    workers: Annotated[
        int | None,
        typer.Option(
            help=f"Number of decoding threads.  [default: one per core; {_REMOTE_WORKERS} for addresses on the command "
            "line]"
        ),
    ] = None,
    threads: opt.Threads = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="Format of the output. In csv, ' precedes text that looks like a formula."),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; it appears at the end, and a journal beside it keeps the rows until then.  "
            "[default: stdout]",
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
    watch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to watch: new images are classified until Ctrl-C or SIGTERM."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Accept http:// addresses.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Try the engine and the runtime on the sample photos, once."),
    ] = True,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
) -> None:
    """Classify images: a row per image, best label first.

    Exit code 0: all classified; 1: error; 2: usage; 3: finished, but some inputs failed.
    """
    from alexnet_deploy.images.overwrite import refuse_to_replace
    from alexnet_deploy.images.sources import Shard, find_sources, is_address
    from alexnet_deploy.inference.predict import predict, require_threshold

    named = images or []
    _check(named, from_file, watch, output, resume=resume, overwrite=overwrite)
    require_threshold(threshold)
    part = None if shard is None else Shard.parse(shard)
    if output is not None:
        given = (engine, import_options.labels, from_file, *named)
        refuse_to_replace(output, [name for name in given if name is not None])
    if workers is None and any(map(is_address, named)):
        workers = _REMOTE_WORKERS
    with stop_on_signals(watch is not None) as stop:
        if watch is not None:
            rounds = _watched(watch, stop, part)
        else:
            rounds = iter([find_sources(named, from_file=from_file, shard=part, allow_http=allow_http)])
        with running(engine, store, runtime, threads, import_options, verify=verify) as opened, _bars() as bars:

            def classify(found: Iterator[Path | Source]) -> Iterator[Prediction]:
                return predict(opened, found, top_k=top_k, threshold=threshold, batch=batch, workers=workers)

            task = bars.add_task("images", total=None)
            if not (bars.disable or watch or from_file) and not any(name == "-" or is_address(name) for name in named):
                _count_meanwhile(bars, task, lambda: find_sources(named, shard=part))

            def show(rows: int) -> None:
                bars.update(task, completed=rows)

            columns = min(top_k, len(opened.contract.labels))
            if output is None:
                rows, failed = _print(classify, rounds, format_, columns, show)
            else:
                shaping = {"top_k": columns, "threshold": threshold, "shard": part}
                rows, failed = _write(
                    classify, rounds, output, engine, opened, shaping, show,
                    format_=format_, resume=resume, overwrite=overwrite, watching=watch is not None,
                )  # fmt: skip
    if failed:
        note(f"{failed} of {rows} inputs failed; their rows contain the reason", style="yellow")
        raise typer.Exit(3)


def _check(
    images: list[str], from_file: Path | None, watch: Path | None, output: Path | None, *, resume: bool, overwrite: bool
) -> None:
    if watch is not None and (images or from_file):
        raise UsageError("`watch` takes no other images; name them in a run of their own")
    if (resume or overwrite) and output is None:
        raise UsageError(f"`{'resume' if resume else 'overwrite'}` is about a file; give `output`")
    if resume and overwrite:
        raise UsageError("`resume` and `overwrite` cannot be combined; choose one")


Classify = Callable[[Iterator["Path | Source"]], Iterator[Prediction]]
Show = Callable[[int], None]


def _print(classify: Classify, rounds: Rounds, format_: Format, columns: int, show: Show) -> tuple[int, int]:
    """Write to the standard output: rows, and how many of them failed."""
    rows = failed = 0
    # If bar and table both go to a terminal, one console draws both, and neither overwrites the other.
    screen = err if err.is_terminal and out.is_terminal else out
    with open_writer(format_, None, top_k=columns, console=screen) as write:
        for found in rounds:
            for prediction in classify(iter(found)):
                write(prediction)
                failed += prediction.error is not None
                rows += 1
                show(rows)
    return rows, failed


def _write(
    classify: Classify,
    rounds: Rounds,
    output: Path,
    engine: str | None,
    opened: OpenEngine,
    shaping: Mapping[str, object],
    show: Show,
    *,
    format_: Format,
    resume: bool,
    overwrite: bool,
    watching: bool,
) -> tuple[int, int]:
    """Write to ``output`` by way of its journal: rows, and how many of them failed."""
    from alexnet_deploy.images.overwrite import refuse_to_replace, refusing_to_replace
    from alexnet_deploy.inference.journal import journal_of
    from alexnet_deploy.inference.to_file import predict_to_file, settings_of

    if output.exists():
        refuse_to_replace(output, _files_of(engine, opened))
    journal = journal_of(output)
    is_ours = False

    def show_rows(rows: int) -> None:  # called for the first time when the journal is open
        nonlocal is_ours
        is_ours = True
        show(rows)

    try:
        result = predict_to_file(
            classify,
            (refusing_to_replace(found, output) for found in rounds),
            output,
            settings=settings_of(opened.onnx_path, opened.contract, **shaping),
            format_=format_,
            top_k=int(str(shaping["top_k"])),
            resume=resume,
            overwrite=overwrite,
            keep_journal=watching,
            on_rows=show_rows,
        )
    except UsageError:
        raise
    except BaseException:
        if is_ours and journal.exists():
            note(f"{journal} keeps the rows so far; the same command with --resume goes on")
        raise
    note_written(output)
    if result.resumed:
        note(f"{result.resumed} of {result.rows} rows come from the run before")
    if result.gone:
        note(f"{result.gone} rows are of images that are no longer among the inputs; they stay", style="yellow")
    if watching:
        note(f"{journal} stays, so that --resume goes on with the folder")
    return result.rows, result.failed


def _files_of(engine: str | None, opened: OpenEngine) -> list[Path]:
    """All files of an engine: those of its bundle, or an ONNX with the files of its weights."""
    if engine is not None and engine.endswith(".onnx"):
        from alexnet_deploy.onnx_graph.weights_data import external_files

        return [Path(engine), *external_files(Path(engine))]
    return list(opened.onnx_path.parent.iterdir())


def _watched(folder: Path, stop: threading.Event, shard: Shard | None) -> Rounds:
    from alexnet_deploy.images.watch import watch_folder

    return watch_folder(folder, stop, shard=shard)


@contextmanager
def stop_on_signals(wanted: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, if ``wanted``; the second one acts as usual."""
    stop = threading.Event()
    if not wanted:
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, end)
    # Sent to a process whose look at a file coincides with another's writing; by default it would end the process.
    leases = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield stop
    finally:
        for number, handler in (*before.items(), (signal.SIGIO, leases)):
            signal.signal(number, handler)


def _bars() -> Progress:
    """The bars with images per second: all there is to say until the total is known."""
    bars = progress_bars()
    bars.columns = (*bars.columns, _Speed(), TimeElapsedColumn())
    return bars


class _Speed(ProgressColumn):
    """Images per second of late, once there is more than a first batch to tell it by."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed and (task.elapsed or 0) > 2 else "")


def _count_meanwhile(bars: Progress, task: TaskID, images: Callable[[], Iterable[object]]) -> None:
    """Give the bar its total as soon as a second listing of the folders has ended, so that no image waits for it."""

    def count() -> None:
        bars.update(task, total=sum(1 for _ in images()))

    threading.Thread(target=count, daemon=True, name="count").start()
