"""The journal of a run: every row beside the output as soon as there is one, so that a killed run can go on.

    answers.jsonl.journal
      5f0a11c3 - {"journal": 1, "engine": "...", "top_k": "5", ...}     what shapes the rows
      90bd2e17 - {"file": "a.jpg", "top": [...], "error": null}         row 0
      c2113a08 - {"file": "b.jpg", "top": [], "error": "..."}           row 1
      7be5be79 1 {"file": "b.jpg", "top": [...], "error": null}         row 1, answered at a later try

The first field is the CRC-32 of the rest of the line, chained to the line before: a line that was edited, removed or
moved shows. A kill loses the rows of the last ``FLUSH_S`` and may cut the last line, a power cut those since the last
``SYNC_S``; the next run computes them again. One process writes a journal at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alexnet_deploy.errors import ArtifactError, UnavailableError, UsageError
from alexnet_deploy.files.lock import try_lock
from alexnet_deploy.inference.prediction import Prediction
from alexnet_deploy.inference.run_settings import refuse_difference

SCHEMA = 1
FLUSH_S = 0.2
SYNC_S = 5.0
"""A flush to the disk takes some milliseconds, so this costs less than a thousandth of a run."""
_BUFFER_BYTES = 1 << 16
_MAX_LINE_BYTES = 64 << 20  # all classes of the largest models take some megabytes
_BEGIN_BYTES = 60


def journal_of(output: Path) -> Path:
    """Where the journal of ``output`` is: beside the file itself, also if ``output`` is a link."""
    return Path(f"{os.path.realpath(output)}.journal")


class Line(NamedTuple):
    """A row: its number, whether it is a later try of that row, where its line begins, and what it says."""

    number: int
    again: bool
    offset: int
    text: bytes

    def prediction(self) -> Prediction:
        """The row as it was written."""
        return Prediction.from_row(json.loads(self.text))


class Journal:
    """An open journal; see ``open_journal``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.rows = 0
        """Number of rows, later tries not counted."""
        self.settings: dict[str, str] | None = None
        """What the header says; None: there is none yet."""
        self._descriptor = descriptor
        self._latest: dict[int, int] = {}  # the offset of the last line of a row that was tried again
        self._crc = self._end = 0
        self._buffer = bytearray()
        self._flushed = self._synced = time.monotonic()

    def load(self) -> None:
        """Check every line and cut off a torn end; ArtifactError if a line before the end is damaged."""
        self.refuse_other_file()
        damaged: int | None = None
        for index, (line, sound) in enumerate(self._lines()):
            if damaged is None and not sound:
                damaged = index
            elif damaged is not None and sound:
                raise ArtifactError(
                    f"{self.path}: line {damaged + 1} was edited or damaged; keep the {damaged} lines before it "
                    "(head -n) and go on with `resume`, or discard all with `overwrite`"
                )
            if damaged is None:
                self._take(index, line)
        os.ftruncate(self._descriptor, self._end)
        os.lseek(self._descriptor, self._end, os.SEEK_SET)

    def refuse_other_file(self) -> None:
        """ArtifactError unless the file begins as a journal does, whole or torn: nothing else is discarded."""
        with self._reader() as stream:
            if not _begins_header(stream.readline(_BEGIN_BYTES)):
                raise ArtifactError(
                    f"{self.path}: is in the way, as it is no journal; move it, or choose another `output`"
                )

    def _lines(self) -> Iterator[tuple[bytes, bool]]:
        """Each line and whether its checksum holds, given the one that the line before it records."""
        before = 0
        with self._reader() as stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                recorded = _recorded(line)
                yield line, line.endswith(b"\n") and recorded == zlib.crc32(line[8:], before)
                before = -1 if recorded is None else recorded
                before &= 0xFFFFFFFF

    def _take(self, index: int, line: bytes) -> None:
        tag, _, text = line[9:-1].partition(b" ")
        if index == 0:
            self.settings = json.loads(text)
        elif tag == b"-":
            self.rows += 1
        else:
            self._latest[int(tag)] = self._end
        self._crc = int(line[:8], 16)
        self._end += len(line)

    def begin(self, settings: Mapping[str, str]) -> None:
        """Empty the journal and write its header."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._latest.clear()
        self.rows = self._crc = self._end = 0
        self.settings = dict(settings)
        self._write(b"-", {"journal": SCHEMA} | self.settings)

    def append(self, prediction: Prediction, again: int | None = None) -> None:
        """Write a row, or with ``again`` a later try of that row.

        Raises UnavailableError where the disk is full; what was written before stays.
        """
        if again is None:
            self.rows += 1
        else:
            self._latest[again] = self._end
        self._write(b"-" if again is None else b"%d" % again, prediction.as_row())
        if len(self._buffer) >= _BUFFER_BYTES or time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def _write(self, tag: bytes, value: object) -> None:
        # ASCII: a file name may hold bytes that are no valid text.
        rest = b" %b %b\n" % (tag, json.dumps(value).encode("ascii"))
        self._crc = zlib.crc32(rest, self._crc)
        self._buffer += b"%08x" % self._crc
        self._buffer += rest
        self._end += len(rest) + 8

    def flush(self, *, sync: bool = False) -> None:
        """Hand the rows to the operating system; with ``sync``, or every ``SYNC_S``, to the disk."""
        waiting, self._buffer = memoryview(bytes(self._buffer)), bytearray()
        try:
            while waiting:
                waiting = waiting[os.write(self._descriptor, waiting) :]
            self._flushed = time.monotonic()
            if sync or self._flushed - self._synced >= SYNC_S:
                os.fsync(self._descriptor)
                self._synced = self._flushed
        except OSError as exc:
            raise UnavailableError(
                f"{self.path}: cannot be written ({exc.strerror}); it keeps the rows before: free some room, then go "
                "on with `resume`"
            ) from exc

    def lines(self) -> Iterator[Line]:
        """The rows in their order, each as its last try left it; those of ``append`` after ``flush``."""
        with self._reader() as stream, self._reader() as later:
            end, offset, number = self._end - len(self._buffer), 0, -1  # -1: the header
            while offset < end and (line := stream.readline()):
                tag, _, text = line[9:-1].partition(b" ")
                if tag == b"-":
                    if number in self._latest:
                        later.seek(self._latest[number])
                        text = later.readline()[9:-1].partition(b" ")[2]
                    if number >= 0:
                        yield Line(number, number in self._latest, offset, text)
                    number += 1
                offset += len(line)

    def predictions(self) -> Iterator[Prediction]:
        """The final rows, in their order."""
        return (line.prediction() for line in self.lines())

    def remove(self) -> None:
        """Delete the file: its rows are in the output, or there are none."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _reader(self) -> io.BufferedReader:
        return open(self.path, "rb")


def _begins_header(line: bytes) -> bool:
    """Whether ``line`` is what a kill can leave of the first line, rather than another file's."""
    start = b' - {"journal": '
    return re.fullmatch(rb"[0-9a-f]*", line[:8]) is not None and start.startswith(line[8 : 8 + len(start)])


def _recorded(line: bytes) -> int | None:
    try:
        return int(line[:8], 16) if line[8:9] == b" " else None
    except ValueError:
        return None


@contextmanager
def open_journal(
    path: Path, settings: Mapping[str, str], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Journal]:
    """Yield the journal at ``path``: with ``resume`` one with the rows so far, otherwise a new one.

    ``settings`` is what shapes the rows, by name; a journal with other settings is not continued. If the block fails,
    the journal keeps its rows for the next run; one without rows is removed.

    Raises UsageError for a journal with rows unless ``resume`` or ``overwrite``, and where its settings differ;
    ArtifactError where it was edited, and for another file in its place, which ``overwrite`` does not discard either;
    UnavailableError where another process writes it or it cannot be written.
    """
    descriptor = _locked(path)
    try:
        journal = Journal(path, descriptor)
        try:
            journal.refuse_other_file() if overwrite else journal.load()
        except OSError as exc:
            raise UnavailableError(f"{path}: cannot be read ({exc.strerror}); copy it to another disk") from exc
        if journal.rows and not resume:
            raise UsageError(
                f"{path}: keeps {journal.rows} rows of a run that did not end; go on with `resume`, or discard them "
                "with `overwrite`"
            )
        if journal.rows and journal.settings is not None:
            _refuse_schema(path, journal.settings.get("journal"))
            refuse_difference(path, journal.settings, settings)
        else:
            journal.begin(settings)
        try:
            yield journal
        except BaseException:
            # A full disk has ended the run already, and is reported; nothing more can be written.
            with contextlib.suppress(UnavailableError):
                journal.flush(sync=True)
            if not journal.rows:
                journal.remove()
            raise
    finally:
        os.close(descriptor)


def _refuse_schema(path: Path, schema: object) -> None:
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: has journal schema {schema}, this version reads {SCHEMA}; discard it with `overwrite`"
        )


def _locked(path: Path) -> int:
    """The file, opened for this process alone; the lock ends with the process, however that ends."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise UnavailableError(f"{path}: cannot be written ({exc.strerror}); choose another `output`") from exc
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnavailableError(f"{path}: is not a plain file; move it, or choose another `output`")
            locked = try_lock(descriptor)
            if locked is False:
                raise UnavailableError(
                    f"{path}: another process writes it; wait for it to end, or choose another `output`"
                )
            if locked is None or os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # its run ended between the two calls
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
