"""The classes of images without class folders, from a file with one line per image."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import open_regular

_Meaning = tuple[str, list[str]]
"""A line, and the images that it may mean."""


def read_classes(labels: Path, folder: Path, files: Sequence[Path]) -> list[str]:
    """The class of each of ``files``, which lie below ``folder`` and are sorted, as the file ``labels`` writes it.

    A line means the image with which it shares the longest ending of the path, with or without the suffix; an image's
    own path comes before an ending. Lines that mean one image must agree. A line with another folder than the image's
    (``other/a.jpg``) counts where the image has no line of its own, and is another image's otherwise, without a word.

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
    by_number = [_number(name, len(class_ids)) for name in classes]
    ids, numbers = (tuple(k for k in found if k is not None) for found in (by_id, by_number))
    if len(ids) == len(classes):
        both = len(numbers) == len(classes) and ids != numbers
        note = f"{labels}: its classes fit as names of class folders and as numbers from 0 among them; taken as names"
        return ids, (note,) if both else ()
    if len(numbers) == len(classes):
        return numbers, ()
    for file, name, *found in zip(files, classes, by_id, by_number, strict=True):
        if found == [None, None]:
            raise InputError(f"{labels}: {file.name} has class {name[:80]!r}, which is not in the training data")
    number = by_id.index(None)
    raise InputError(
        f"{labels}: {files[number].name} has the number {classes[number]} and others have a class id; write class ids"
    )


def _number(name: str, count: int) -> int | None:
    """The number below ``count`` that ``name`` is, if it is one; ``int`` refuses thousands of digits."""
    short = name.isdecimal() and len(name.lstrip("0")) <= len(str(count))
    return number if short and (number := int(name[-len(str(count)) :])) < count else None


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
    class_of: dict[str, str] = {}
    for name, found in rows:
        line = str(PurePosixPath(name.lstrip("/")))
        if (had := class_of.setdefault(line, found)) != found:
            raise InputError(f"{labels}: gives {line} the classes {had} and {found}; remove one line")
    paths = [file.relative_to(folder).as_posix() for file in files]
    line_of = _whole_paths(class_of, paths, folder.absolute().name)
    taken = set(line_of.values())
    if spare := [line for line in class_of if line not in taken]:
        ours, others = _meanings(spare, paths, folder.absolute().name)
        _assign(ours, line_of, class_of, labels, folder)
        others = [(line, images) for line, images in others if not line_of.keys() >= set(images)]
        _assign(others, line_of, class_of, labels, folder)
    if missing := [path for path in paths if path not in line_of]:
        raise InputError(f"{labels}: has no line for {missing[0]}; give the list of these images")
    return [class_of[line_of[path]] for path in paths]


def _whole_paths(lines: Collection[str], paths: Sequence[str], folder: str) -> dict[str, str]:
    """The line of each image that one names by its whole path: below the folder, or from the folder's own name on.

    In a folder that holds one of its own name, a line may be read in both ways: the reading of more images counts.
    """
    readings = [{path: prefix + path for path in paths if prefix + path in lines} for prefix in ("", f"{folder}/")]
    line_of, other = sorted(readings, key=len, reverse=True)
    taken = set(line_of.values())
    return {path: line for path, line in other.items() if line not in taken} | line_of


def _meanings(lines: Iterable[str], paths: Sequence[str], folder: str) -> tuple[list[_Meaning], list[_Meaning]]:
    """The images that each line may mean, of those with which its longest ending is shared.

    The second list is of lines with a folder that differs from the image's: the list lies elsewhere, or the line is
    for another image. What may mean none of the images is in neither.
    """
    below, from_folder = _index((path, path) for path in paths), _index((f"{folder}/{path}", path) for path in paths)
    part = _index((ending, path) for path in paths for ending in _endings(f"{folder}/{path}"))
    ours: list[_Meaning] = []
    others: list[_Meaning] = []
    for line in lines:
        for name, is_whole in ((name, end == line) for end in _endings(line) for name in (end, _stem(end))):
            whole, same_path = from_folder.get(name, []), below.get(name, [])
            if is_whole:
                found, kind = [*same_path, *whole] or part.get(name, []), ours
            else:
                found, kind = (whole, ours) if whole else (same_path, others)
            if found:
                kind.append((line, found))
                break
    return ours, others


def _assign(
    meanings: list[_Meaning], line_of: dict[str, str], class_of: Mapping[str, str], labels: Path, folder: Path
) -> None:
    """Give images without a line theirs; InputError where one may be for several, or contradicts the line there is."""
    for line, images in sorted(meanings, key=lambda meaning: len(meaning[1])):
        first = images[0]
        if all(image in line_of for image in images):
            if all(class_of[line_of[image]] != class_of[line] for image in images):
                had = line_of[first]
                both = f"the classes {class_of[had]} and {class_of[line]}, as {had} and as {line}"
                raise InputError(f"{labels}: gives {first} {both}; remove one line")
        elif len(images) > 1:
            raise InputError(
                f"{labels}: {line} may be {first} or {images[1]}; write the paths of images relative to {folder}"
            )
        else:
            line_of[first] = line


def _index(addresses: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The images at each address, with its suffix or without it where that is no other image's whole address."""
    names, stems = defaultdict(list), defaultdict(list)
    for address, path in addresses:
        names[address].append(path)
        stems[_stem(address)].append(path)
    return stems | names


def _endings(path: str) -> list[str]:
    """``a/b/c``, ``b/c`` and ``c``."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]
