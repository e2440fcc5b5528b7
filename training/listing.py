"""Which images there are, and of which class: folders of a class, and ImageNet's own layout."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.find import find_images

_LABEL_FILES = ("LOC_val_solution.csv", "val.txt", "imagenet_2012_validation_synset_labels.txt")
"""Kaggle's edition, Caffe's, and the list that TensorFlow's scripts made common; looked for beside a flat folder."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files with their class numbers. ``class_ids`` are the folder names in sorted order."""

    class_ids: tuple[str, ...]
    files: tuple[Path, ...]
    targets: tuple[int, ...]

    def digest(self, root: Path) -> str:
        """SHA-256 over class names and relative paths: tells whether two runs saw the same listing."""
        lines = [*self.class_ids, *(str(file.relative_to(root)) for file in self.files)]
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()

    def where(self, mask: NDArray[np.bool_]) -> Listing:
        """The files for which ``mask`` is true, with the same classes."""
        chosen = np.flatnonzero(mask)
        return Listing(self.class_ids, tuple(self.files[i] for i in chosen), tuple(self.targets[i] for i in chosen))


def list_folder(root: Path, *, class_ids: tuple[str, ...] | None = None) -> Listing:
    """All images below ``root/<class>/``.

    With ``class_ids`` (a validation split) the classes must be among them; some may be missing. Raises InputError
    where there is nothing to use: no folder, no classes, a class without images, a name that cannot be printed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; it should hold one folder of images a class")
    found = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if odd := [name for name in found if not name.isprintable()]:
        raise InputError(f"{root}: class folder {odd[0]!r} has a name that cannot be printed; rename it")
    if class_ids is None:
        if len(found) < 2:
            raise InputError(f"{root}: class folders: {len(found)}, a classifier needs 2; make one folder a class")
        class_ids = tuple(found)
    elif unknown := sorted(set(found) - set(class_ids)):
        raise InputError(f"{root}: class {unknown[0]!r} is not in the training data; rename or remove the folder")
    elif not found:
        raise InputError(f"{root}: holds no folder of a class; it should hold one folder of images a class")
    files, targets = [], []
    for name in found:
        images = list(find_images([root / name]))
        files += images
        targets += [class_ids.index(name)] * len(images)
    return Listing(class_ids, tuple(files), tuple(targets))


def split(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """A seeded split into training and validation, ``share`` of each class (one image at least) to validate on."""
    if not 0 < share < 1:
        raise UsageError(f"--val-share {share}: takes a share between 0 and 1, such as 0.1")
    targets = np.array(listing.targets)
    held = np.zeros(len(targets), bool)
    rng = np.random.default_rng(seed)
    for index, name in enumerate(listing.class_ids):
        members = np.flatnonzero(targets == index)
        if len(members) < 2:
            raise InputError(f"class {name!r} has one image; it needs at least 2 to be split, or pass --val")
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return listing.where(~held), listing.where(held)


def list_flat(folder: Path, class_ids: tuple[str, ...], labels: Path | None = None) -> Listing:
    """ImageNet's validation images as they are published: all in one folder, their classes in a file.

    ``labels`` (else one of the usual names beside the folder or above it) holds a line an image: Kaggle's CSV
    ``ImageId,PredictionString``, ``file class`` with a class id or a number among the sorted ids, or a class id alone,
    in the order of the sorted file names. Raises InputError where a line names an unknown class or a file has none.
    """
    path = labels or _find_labels(folder)
    files = sorted(find_images([folder]))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: is not a readable list of labels ({exc}); see --help of --val-labels") from exc
    rows = _label_rows(text, path)
    if rows and len(rows[0]) == 1:
        if len(rows) != len(files):
            raise InputError(f"{path}: has {len(rows)} lines for {len(files)} images in {folder}; one a line is needed")
        named = {file.stem: row[0] for file, row in zip(files, rows, strict=True)}
    else:
        named = {Path(row[0]).stem: row[1] for row in rows}
    numbers = {class_id: number for number, class_id in enumerate(class_ids)}
    targets = [_number_of(named.get(file.stem), numbers, class_ids, file, path) for file in files]
    return Listing(class_ids, tuple(files), tuple(targets))


def list_held(folder: Path, class_ids: tuple[str, ...], labels: Path | None = None) -> Listing:
    """Images to measure on, their classes among ``class_ids``: in class folders, or in ImageNet's flat layout.

    ``labels`` is what ``list_flat`` takes, and makes the layout a flat one. InputError as the two that list raise it,
    and for a whole data set in place of one of its splits.
    """
    train, val = splits_below(folder)
    if train != folder and train.name not in class_ids:
        raise InputError(f"{folder}: holds a whole data set; give one of its splits, such as {val or train}")
    if labels is not None or is_flat(folder):
        return list_flat(folder, class_ids, labels)
    return list_folder(folder, class_ids=class_ids)


def is_flat(folder: Path) -> bool:
    """Whether a validation folder holds images and no class folders."""
    children = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return bool(children) and not any(path.is_dir() for path in children)


def splits_below(data: Path) -> tuple[Path, Path | None]:
    """The training folder that ``data`` means, and its validation folder if there is one.

    ``data`` may be a folder of classes, hold ``train/`` and ``val/``, or be ImageNet as Kaggle packs it.
    """
    for root in (data, data / "Data" / "CLS-LOC", data / "ILSVRC" / "Data" / "CLS-LOC"):
        if (root / "train").is_dir():
            return root / "train", root / "val" if (root / "val").is_dir() else None
    return data, None


def _find_labels(folder: Path) -> Path:
    places = (folder, *folder.resolve().parents[:4])
    found = next((place / name for place in places for name in _LABEL_FILES if (place / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{folder}: holds images and no class folders, and no {_LABEL_FILES[0]} lies near; "
            "name the list of their classes: --val-labels FILE"
        )
    return found


def _label_rows(text: str, source: Path) -> list[list[str]]:
    """Of each line the file and its class, or of each the class alone; InputError where lines differ in that."""
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if numbered and numbered[0][1].startswith("ImageId,"):
        lines = csv.reader(line for _, line in numbered[1:])
        return [[row[0], row[1].split()[0]] for row in lines if len(row) == 2 and row[1].strip()]
    rows = [line.split()[:2] for _, line in numbered]
    for (number, line), row in zip(numbered, rows, strict=True):
        if len(row) != len(rows[0]):
            wanted = "a class alone" if len(rows[0]) == 1 else "a file and its class"
            raise InputError(f"{source}: line {number} ({line.strip()[:80]!r}) is not {wanted} as the first; mend it")
    return rows


def _number_of(found: str | None, numbers: dict[str, int], class_ids: tuple[str, ...], file: Path, labels: Path) -> int:
    if found is None:
        raise InputError(f"{labels}: says nothing of {file.name}; give the list that belongs to these images")
    number = numbers.get(found, int(found) if found.isdecimal() else -1)
    if not 0 <= number < len(class_ids):
        raise InputError(f"{labels}: {file.name} is of class {found!r}, which is not in the training data")
    return number
