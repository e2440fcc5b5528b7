"""Writing predictions: a table for people; JSON Lines, CSV and Parquet for programs. All of them stream."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from alexnet_deploy.errors import UnavailableError, UsageError, printable
from alexnet_deploy.files import atomic_file, check_file
from alexnet_deploy.inference.prediction import FullOutputs, Prediction

Format = Literal["table", "jsonl", "csv", "parquet"]
Write = Callable[[Prediction], None]

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001
_FILE_CELLS, _LABEL_CELLS = 48, 28  # widths of the table's columns: room for most labels of ImageNet
_NONE = "no class reaches the threshold"
_MARKS = {None: "", False: "false", True: "true"}
_UNKNOWN = "unknown: "
"""Before the most likely class of an answer that the engine's rule marks; the ranking stays."""


@contextmanager
def open_writer(
    format_: Format,
    output: Path | None,
    *,
    top_k: int,
    full: FullOutputs | None = None,
    console: Console | None = None,
) -> Iterator[Write]:
    """Yield the function that writes one prediction, to ``output`` or, without it, to the standard output.

    A file appears whole when the block ends without an error; otherwise the old one stays. A reader of the standard
    output that leaves early (``| head``) ends the block quietly. ``top_k`` is the number of answers with columns in a
    CSV row; with ``full`` there is a column per class instead. A table on a terminal is printed through ``console``,
    which it can share with a progress bar.

    Raises UsageError for Parquet without ``output`` and for an ``output`` that is not a plain file, UnavailableError
    where pyarrow is missing, the disk is full or the place cannot be written.
    """
    check_writer(format_, output)
    if format_ == "parquet" and output is not None:
        from alexnet_deploy.inference.parquet import parquet_writer

        with atomic_file(output) as temporary, parquet_writer(temporary, full) as write:
            yield write
        return
    with _text_stream(output) as stream:
        if format_ == "jsonl":
            yield _jsonl_writer(stream)
        elif format_ == "csv":
            yield _csv_writer(stream, top_k) if full is None else _wide_csv_writer(stream, full)
        else:
            console = console or Console(file=sys.stdout, emoji=False, markup=False, highlight=False)
            yield _table_writer(stream, console if output is None and console.is_terminal else None, full)


def check_writer(format_: Format, output: Path | None) -> None:
    """Raise now what ``open_writer`` would raise before the first row."""
    if output is not None:
        check_file(output, "output")
    if format_ == "parquet":
        if output is None:
            raise UsageError("`format` parquet cannot go to the standard output; give an `output` file")
        try:
            import alexnet_deploy.inference.parquet  # noqa: F401
        except ImportError as exc:
            raise UnavailableError(
                "`format` parquet needs pyarrow; pip install 'alexnet-deploy[parquet]', or use `format` jsonl"
            ) from exc


def spreadsheet_safe(cell: str) -> str:
    """``cell`` with a ``'`` before it if a spreadsheet would take it for a formula and compute it.

    The characters are those of OWASP's page "CSV Injection". For text alone: a number is no formula.
    """
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _jsonl_writer(stream: TextIO) -> Write:
    def write(prediction: Prediction) -> None:
        stream.write(json.dumps(prediction.as_row(), ensure_ascii=False) + "\n")

    return write


@dataclass(frozen=True, slots=True)
class _Lines:
    """What ``csv.writer`` writes rows to, to end them with a line feed alone.

    Up to Python 3.12 it puts cells in quotes for the characters of its line end only, and a reader takes a carriage
    return for the end of a row as well.
    """

    stream: TextIO

    def write(self, row: str) -> object:
        return self.stream.write(row.removesuffix("\r\n") + "\n")


def _csv_writer(stream: TextIO, top_k: int) -> Write:
    rows = csv.writer(_Lines(stream), lineterminator="\r\n")
    rows.writerow(
        [
            *("file", "error"),
            *(f"{name}_{k}" for k in range(1, top_k + 1) for name in ("label", "index", "probability")),
            "unknown",
        ]
    )

    def write(prediction: Prediction) -> None:
        answers = [cell for a in prediction.top for cell in (spreadsheet_safe(a.label), a.index, a.probability)]
        blanks = [""] * (3 * top_k - len(answers))
        names = (spreadsheet_safe(prediction.file), spreadsheet_safe(prediction.error or ""))
        rows.writerow([*names, *answers, *blanks, _MARKS[prediction.unknown]])

    return write


def _wide_csv_writer(stream: TextIO, full: FullOutputs) -> Write:
    rows = csv.writer(_Lines(stream), lineterminator="\r\n")
    rows.writerow(["file", "error", *full.columns, "unknown"])
    blanks = [""] * len(full.class_ids)

    def write(prediction: Prediction) -> None:
        values = blanks if prediction.values is None else prediction.values
        names = (spreadsheet_safe(prediction.file), spreadsheet_safe(prediction.error or ""))
        rows.writerow([*names, *values, _MARKS[prediction.unknown]])

    return write


def _table_writer(stream: TextIO, terminal: Console | None, full: FullOutputs | None) -> Write:
    """Aligned lines one by one instead of one big table: output starts at once, and a million rows need no memory."""

    def write(prediction: Prediction) -> None:
        if terminal is None:
            stream.write(_table_line(prediction, full) + "\n")
        elif prediction.error:
            terminal.print(Text(_table_line(prediction, full, terminal.width), style="red"), soft_wrap=True)
        else:
            line = Text(_table_line(prediction, full, terminal.width), style="yellow" if prediction.unknown else "")
            terminal.print(line, no_wrap=True, overflow="ellipsis")

    return write


def _table_line(prediction: Prediction, full: FullOutputs | None, width: int | None = None) -> str:
    file = printable(prediction.file)
    file = file.ljust(_FILE_CELLS) if width is None else _end_of(file, min(_FILE_CELLS, width // 2))
    if prediction.error:
        return f"{file}  {printable(prediction.error.removeprefix(prediction.file + ': '))}"
    answers = _ranked(prediction, full)
    if not answers:
        return f"{file}  {_NONE}"
    (label, value), *others = answers
    label = _UNKNOWN + label if prediction.unknown else label
    label = label.ljust(_LABEL_CELLS) if width is None else set_cell_size(label, min(_LABEL_CELLS, width // 4))
    rest = ", ".join(f"{other} {number}" for other, number in others)
    return f"{file}  {label} {value:>6}  {rest}".rstrip()


def _ranked(prediction: Prediction, full: FullOutputs | None) -> list[tuple[str, str]]:
    """The classes of a row and their numbers, the most likely first, for people."""
    if full is None or prediction.values is None:
        return [(printable(answer.label), f"{answer.probability:.1%}") for answer in prediction.top]
    values, form = prediction.values, ".1%" if full.outputs == "probabilities" else ".2f"
    order = sorted(range(len(values)), key=lambda k: -values[k])
    return [(printable(full.labels[k]), format(values[k], form)) for k in order]


def _end_of(path: str, cells: int) -> str:
    """Exactly ``cells`` wide; of a longer path the end stays, in which files differ."""
    return set_cell_size(path, cells) if cell_len(path) <= cells else "…" + set_cell_size(path[::-1], cells - 1)[::-1]


@contextmanager
def _text_stream(output: Path | None) -> Iterator[TextIO]:
    if output is not None:
        with atomic_file(output) as temporary, _utf8(temporary.open("wb")) as stream:
            yield stream
        return
    sys.stdout.flush()
    stream = _utf8(sys.stdout.buffer, line_buffering=True)
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:
        # The reader has left. Without this the interpreter would fail again when it flushes at exit.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise
    finally:
        stream.detach()  # closing the wrapper would close the standard output


def _utf8(raw: BinaryIO, *, line_buffering: bool = False) -> io.TextIOWrapper:
    # A file name need not be valid text: its odd bytes become \udcXX, as they do in JSON.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="", line_buffering=line_buffering)
