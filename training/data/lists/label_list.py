"""The classes of images without class folders, from a file with one line per image."""

from __future__ import annotations

import csv
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import open_regular


def read_classes(labels: Path, folder: Path, files: Sequence[Path]) -> list[str]:
    """The class of each of ``files``, which lie below ``folder`` and are sorted, as the file ``labels`` writes it.

    Raises InputError if the list cannot be read, or does not say which class an image has.
    """
    try:
        with open_regular(labels) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{labels}: is not a readable list of labels ({exc}); give another with `val_labels`") from exc
    rows = _rows(text, labels)
    if rows and len(rows[0]) == 1:
        if len(rows) != len(files):
            raise InputError(
                f"{labels}: has {len(rows)} lines for {len(files)} images in {folder}; write one per image"
            )
        return [row[0] for row in rows]
    return _by_name(rows, labels, folder, files)


def class_numbers(
    classes: Sequence[str], class_ids: Sequence[str], files: Sequence[Path], labels: Path
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The number of each of ``classes``, one per file, and a note where the list can be read in two ways.

    All are class ids, or all are numbers among the sorted ids: a folder may be called ``1`` and be the first, number 0.
    Raises InputError where neither fits all of them.
    """
    of_id = {class_id: number for number, class_id in enumerate(class_ids)}
    by_id = [of_id.get(name) for name in classes]
    by_number = [int(name) if name.isdecimal() and int(name) < len(class_ids) else None for name in classes]
    ids, numbers = (tuple(k for k in found if k is not None) for found in (by_id, by_number))
    if len(ids) == len(classes):
        both = len(numbers) == len(classes) and ids != numbers
        note = f"{labels}: its classes fit as names of class folders and as numbers from 0 among them; taken as names"
        return ids, (note,) if both else ()
    if len(numbers) == len(classes):
        return numbers, ()
    for file, name, *found in zip(files, classes, by_id, by_number, strict=True):
        if found == [None, None]:
            raise InputError(f"{labels}: {file.name} has class {name!r}, which is not in the training data")
    number = by_id.index(None)
    raise InputError(
        f"{labels}: {files[number].name} has the number {classes[number]} and others have a class id; write class ids"
    )


def _rows(text: str, source: Path) -> list[list[str]]:
    """The file and its class of each line, or the class alone; InputError where one line differs from the first."""
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if numbered and numbered[0][1].startswith("ImageId,"):
        lines = csv.reader(line for _, line in numbered[1:])
        return [[row[0], row[1].split()[0]] for row in lines if len(row) == 2 and row[1].strip()]
    rows = [line.split()[:2] for _, line in numbered]
    for (number, line), row in zip(numbered, rows, strict=True):
        if len(row) != len(rows[0]):
            expected = "a class alone" if len(rows[0]) == 1 else "a file and its class"
            raise InputError(
                f"{source}: line {number} ({line.strip()[:80]!r}) is not {expected} like the first; fix it"
            )
    return rows


def _by_name(rows: list[list[str]], labels: Path, folder: Path, files: Sequence[Path]) -> list[str]:
    """The classes by paths relative to ``folder`` or the one above; else by names, with or without their suffix."""
    class_of: dict[PurePosixPath, str] = {}
    for name, found in rows:
        if (had := class_of.setdefault(PurePosixPath(name), found)) != found:
            raise _two_classes(labels, name, had, found)
    paths = [PurePosixPath(file.relative_to(folder).as_posix()) for file in files]
    line_of = {path: line for path in paths for line in (folder.name / path, path) if line in class_of}
    for part in (_name, _stem):
        taken, all_alike = set(line_of.values()), _grouped(paths, part)
        spare = _grouped((line for line in class_of if line not in taken), part)
        for path in paths:
            lines = [line for line in spare.get(part(path), ()) if _can_be(line, path)]
            if path in line_of or not lines:
                continue
            line, *others = lines
            alike = [other for other in all_alike[part(path)] if _can_be(line, other)]
            if len(alike) > 1:
                raise InputError(
                    f"{labels}: {line} may be {alike[0]} or {alike[1]}; write the paths of images relative to {folder}"
                )
            if differs := [other for other in others if class_of[other] != class_of[line]]:
                raise _two_classes(labels, str(differs[0]), class_of[line], class_of[differs[0]])
            line_of[path] = line
    if missing := [path for path in paths if path not in line_of]:
        raise InputError(f"{labels}: has no line for {missing[0]}; give the list of these images")
    return [class_of[line_of[path]] for path in paths]


def _can_be(line: PurePosixPath, path: PurePosixPath) -> bool:
    """Whether no folder that both name differs: a list may lie elsewhere, or name no folders."""
    return all(map(operator.eq, line.parts[-2::-1], path.parts[-2::-1]))


def _two_classes(labels: Path, name: str, one: str, other: str) -> InputError:
    return InputError(f"{labels}: gives {name} the classes {one} and {other}; remove one line")


def _grouped(paths: Iterable[PurePosixPath], part: Callable[[PurePosixPath], str]) -> dict[str, list[PurePosixPath]]:
    groups: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
    for path in paths:
        groups[part(path)].append(path)
    return groups


def _name(path: PurePosixPath) -> str:
    return path.name


def _stem(path: PurePosixPath) -> str:
    return path.stem
