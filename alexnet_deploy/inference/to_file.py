"""Predictions into a file, by a run that goes on where an earlier one was killed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import check_file
from alexnet_deploy.inference.journal import Journal, Line, journal_of, open_journal
from alexnet_deploy.inference.prediction import TOP_K, FullOutputs, Prediction
from alexnet_deploy.inference.writers import Format, check_writer, open_writer

S = TypeVar("S")
Predict = Callable[[Iterator[S]], Iterator[Prediction]]
"""From images to one Prediction each, in their order."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """The rows of an output: how many, how many of failed inputs, how many of inputs that are no longer named."""

    rows: int
    failed: int
    resumed: int
    """Rows that an earlier run had computed."""
    gone: int


def predict_to_file(
    predict: Predict[S],
    rounds: Iterable[Iterable[S]],
    output: Path,
    *,
    settings: dict[str, str],
    format_: Format = "jsonl",
    top_k: int = TOP_K,
    full: FullOutputs | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_journal: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> FileResult:
    """Write one row per image into ``output``, which appears whole at the end; its journal keeps the rows until then.

    ``rounds`` are images, in one round or as they become known; ``str`` of an image is the ``file`` of its row. After a
    kill, ``resume`` continues: no row is lost and none is twice. What failed is tried again, in its place. Images that
    are new get rows at the end; rows of images that are no longer named stay (``gone``). ``settings`` (see
    ``settings_of``) must be those of the earlier run. ``full`` has the classes where rows hold a number for each.
    ``on_rows`` gets the number of rows so far, first when the journal is open. ``keep_journal`` leaves the journal
    beside the output, for a run that is to ``resume`` later.

    Raises what ``open_journal`` and ``open_writer`` raise, before any work; UsageError if ``resume`` finds ``output``
    complete.
    """
    check_file(output, "output")
    check_writer(format_, output)
    journal_file = journal_of(output)
    if resume and not journal_file.exists() and output.exists():
        raise UsageError(
            f"`resume`: {output} is complete, as no {journal_file.name} is beside it; leave out `resume` to write it "
            "again"
        )
    with open_journal(journal_file, settings | {"format": format_}, resume=resume, overwrite=overwrite) as journal:
        resumed = journal.rows
        todo = _Todo(journal)
        on_rows(todo.seen)
        for images in rounds:
            for prediction in predict(todo.of(images)):
                journal.append(prediction, todo.again.popleft())
                on_rows(todo.seen - len(todo.again))
            journal.flush()  # the next round may be hours away
        journal.flush(sync=True)
        failed, gone = 0, todo.gone()
        with open_writer(format_, output, top_k=top_k, full=full) as write:
            for prediction in journal.predictions():
                failed += prediction.error is not None
                write(prediction)
        if not keep_journal:
            journal.remove()
        return FileResult(journal.rows, failed, resumed, gone)


class _Todo:
    """Which images still need a row: those without one, and those whose row is an error.

    As long as the images come in the order of the journal, both are read side by side and nothing is kept. At the
    first difference the rest of the journal goes into memory, some 200 bytes per row.
    """

    def __init__(self, journal: Journal) -> None:
        self.seen = 0
        """Images so far, with those that need no new row."""
        self.again: deque[int | None] = deque()
        """For each image that ``of`` yielded and that has no row yet: the row that it replaces."""
        self._side_by_side: Iterator[Line] | None = journal.lines()
        self._rest: dict[bytes, deque[int]] = {}  # rows by a hash of the file; -1 - row for an error

    def of(self, images: Iterable[S]) -> Iterator[S]:
        """Those of ``images`` that need a row; ``again`` gets one entry per image."""
        for image in images:
            self.seen += 1
            row = self._row_of(str(image))
            if row is None or row < 0:
                self.again.append(None if row is None else -1 - row)
                yield image

    def gone(self) -> int:
        """Rows of images that did not come; to be called once, at the end."""
        return sum(1 for _ in self._side_by_side or ()) + sum(map(len, self._rest.values()))

    def _row_of(self, file: str) -> int | None:
        if self._side_by_side is not None:
            line = next(self._side_by_side, None)
            if line is None:
                self._side_by_side = None
                return None
            written = line.prediction()
            if written.file == file:
                return -1 - line.number if written.error else line.number
            for other in (line, *self._side_by_side):
                row = other.prediction()
                self._rest.setdefault(_key(row.file), deque()).append(-1 - other.number if row.error else other.number)
            self._side_by_side = None
        rows = self._rest.get(_key(file))
        if not rows:
            return None
        row_number = rows.popleft()
        if not rows:
            del self._rest[_key(file)]
        return row_number


def _key(file: str) -> bytes:
    return hashlib.blake2b(file.encode("utf-8", "surrogatepass"), digest_size=16).digest()
