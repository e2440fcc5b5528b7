"""A data set as a CSV file: ``file,label`` and, if wished, ``split`` per line."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.files import open_regular
from training.data.lists.split_folders import Split, split_named

COLUMNS = ("file", "label", "split")
_SHOWN = 60
"""Characters of a label in an error: without a closing quote it goes on to the end of the file."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image: its path, class id and split (None: the file has none)."""

    line: int
    file: Path
    label: str
    split: Split | None


def is_manifest(data: Path) -> bool:
    """Whether ``data`` is a manifest: a file, named ``.csv``."""
    return data.suffix.lower() == ".csv" and not data.is_dir()


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """The rows of a manifest; files are relative to its folder.

    The first line names the columns, in any order; others are ignored. Commas, semicolons or tabs separate them.
    InputError if a column is missing, a line is incomplete, a file is not there (with the first and their number), or
    one is in both splits.
    """
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        cause = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path}: is not a readable CSV file ({cause}); give `file,label` lines") from exc
    rows = list(_rows(path, text))
    if not rows:
        raise InputError(f"{path}: lists no image; write one line per image: file,label")
    missing = [row for row in rows if not os.path.lexists(row.file)]
    if missing:
        first = missing[0]
        raise InputError(
            f"{path}: line {first.line}: {first.file}: no such file ({len(missing)} of {len(rows)} are missing); "
            f"paths are relative to {path.parent}"
        )
    listed: dict[str, ManifestRow] = {}
    for row in rows:
        had = listed.setdefault(os.path.abspath(row.file), row)
        if (had.split or "train") != (row.split or "train"):
            raise InputError(
                f"{path}: line {row.line}: {row.file} is in both splits (line {had.line} has it as "
                f"{had.split or 'train'}), so validation would include a training image; remove one of the lines"
            )
    return tuple(rows)


def _rows(path: Path, text: str) -> Iterator[ManifestRow]:
    header = text.splitlines()[0] if text else ""
    delimiter = max(",;\t", key=header.count)
    # Not the split lines: a quoted cell may have a line break, which would vanish.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as exc:
        raise InputError(f"{path}: line 1 is no CSV ({exc}); fix it") from exc
    if lacks := [name for name in COLUMNS[:2] if name not in names]:
        raise InputError(
            f"{path}: has no column {lacks[0]!r} in its first line; begin with file,label or file,label,split"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1 and name in COLUMNS]:
        raise InputError(f"{path}: has two columns {twice[0]!r}; remove one")
    columns = {name: names.index(name) for name in COLUMNS if name in names}
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _row(path, reader.line_num, cells, columns)
    except csv.Error as exc:
        raise InputError(f"{path}: line {reader.line_num} is no CSV ({exc}); fix it") from exc


def _row(path: Path, line: int, cells: list[str], columns: dict[str, int]) -> ManifestRow:
    found = {name: cells[index].strip() if index < len(cells) else "" for name, index in columns.items()}
    for name in COLUMNS[:2]:
        if not found[name]:
            raise InputError(f"{path}: line {line} has no {name}; add it, or remove the line")
    if not found["label"].isprintable():
        shown = printable(found["label"])[:_SHOWN]
        raise InputError(f"{path}: line {line}: label '{shown}' cannot be printed; rename it, or close its quotes")
    split = found.get("split")
    if split is not None and split_named(split) not in ("train", "val"):
        raise InputError(
            f"{path}: line {line} has the split {printable(split)!r}; write train or val, or remove the line"
        )
    return ManifestRow(line, path.parent / found["file"], found["label"], None if split is None else split_named(split))
