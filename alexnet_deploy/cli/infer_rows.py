"""Where the rows of ``infer`` go: to the standard output, or into a file by way of its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.cli.engines import files_of
from alexnet_deploy.cli.output.terminal import err, note, note_written, out
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.prediction import FullOutputs, Prediction
from alexnet_deploy.inference.writers import Format, open_writer

if TYPE_CHECKING:
    from alexnet_deploy.images.sources import Source
    from alexnet_deploy.inference.engine import OpenEngine

    Rounds = Iterator[Iterable[Path | Source]]

Classify = Callable[[Iterator["Path | Source"]], Iterator[Prediction]]
Show = Callable[[int], None]


def print_rows(
    classify: Classify, rounds: Rounds, format_: Format, columns: int, full: FullOutputs | None, show: Show
) -> tuple[int, int]:
    """Write to the standard output: rows, and how many of them failed."""
    rows = failed = 0
    # If bar and table both go to a terminal, one console draws both, and neither overwrites the other.
    screen = err if err.is_terminal and out.is_terminal else out
    with open_writer(format_, None, top_k=columns, full=full, console=screen) as write:
        for found in rounds:
            for prediction in classify(iter(found)):
                write(prediction)
                failed += prediction.error is not None
                rows += 1
                show(rows)
    return rows, failed


def write_rows(
    classify: Classify,
    rounds: Rounds,
    output: Path,
    engine: str | None,
    opened: OpenEngine,
    shaping: Mapping[str, object],
    full: FullOutputs | None,
    show: Show,
    *,
    format_: Format,
    resume: bool,
    overwrite: bool,
    watching: bool,
) -> tuple[int, int]:
    """Write to ``output`` by way of its journal: rows, and how many of them failed."""
    from alexnet_deploy.images.identity.overwrite import refuse_to_replace, refusing_to_replace
    from alexnet_deploy.inference.journal import journal_of
    from alexnet_deploy.inference.run_settings import settings_of
    from alexnet_deploy.inference.to_file import predict_to_file

    if output.exists():
        refuse_to_replace(output, files_of(engine, opened))
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
            settings=settings_of(opened.model_sha256(), opened.contract, **shaping),
            format_=format_,
            top_k=int(str(shaping["top_k"])),
            full=full,
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
