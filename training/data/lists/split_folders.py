"""Which folders of a data set are its splits, by the names that people give them, and which are classes.

    DATA/train/CLASS/..., DATA/val/CLASS/...    also Train, training, valid, validation, in any case
    DATA/CLASS/...                              no splits; a class may be called train if it holds images itself

What could be meant in two ways is refused: training images taken for a class still give a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.images.find import is_clutter

Split = Literal["train", "val", "test"]
_SPELLINGS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PACKED = (("Data", "CLS-LOC"), ("ILSVRC", "Data", "CLS-LOC"))
"""Where Kaggle's edition of ImageNet keeps its splits."""
_SHOWN = 3


class Splits(NamedTuple):
    """The training folder of a data set, and its validation folder if there is one."""

    train: Path
    val: Path | None
    notes: tuple[str, ...] = ()
    """What was taken where the names are not ``train`` and ``val``, and what was left out; for people."""


def split_named(name: str) -> Split | None:
    """The split that a folder, or a line of a manifest, is called; None for any other name."""
    return _SPELLINGS.get(name.strip().lower())


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that may be classes or splits, sorted; none if it is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # which knows folders from files without a look at each of a million
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not is_clutter(entry.name))


def find_split_folders(data: Path) -> Splits:
    """The splits of the folder ``data``; it is its own training folder if it has none.

    InputError where two folders are called like one split, or one is called so and cannot be it.
    """
    for root in (data, *(data.joinpath(*parts) for parts in _PACKED)):
        found = _splits_in(root)
        if found is not None:
            return found
    return Splits(data, None)


def _splits_in(root: Path) -> Splits | None:
    folders = subfolders(root)
    named = {split: [each for each in folders if split_named(each.name) == split] for split in ("train", "val", "test")}
    others = [each for each in folders if split_named(each.name) is None]
    if others and not any(subfolders(each) for each in named["train"]):
        # Beside classes, a folder of that name which holds images itself is one as well.
        named = {split: [f for f in found if not _holds_files_alone(f)] for split, found in named.items()}
    for split in ("train", "val"):
        if len(named[split]) > 1:
            raise InputError(
                f"{root}: {_listed(named[split])} are both called like the {split} split; rename or remove one"
            )
    if not named["train"]:
        if named["val"] or (named["test"] and len(folders) > 1):
            odd = (named["val"] or named["test"])[0]
            raise InputError(
                f"{root}: has {printable(odd.name)}/ and no train/, so it is not clear which images are for training; "
                "give their folder, or rename it to train"
            )
        return None
    (train,), val = named["train"], next(iter(named["val"]), None)
    notes = [f"{train}: taken as the training images"] if train.name != "train" else []
    if val is not None and val.name != "val":
        notes.append(f"{val}: taken as the validation images")
    if named["test"]:
        use = "" if val is not None else "; to validate on it, give it with `val`"
        notes.append(f"{_listed(named['test'])}: not used{use}")
    beside = [folder for folder in folders if folder not in (train, val, *named["test"])]
    if beside:
        notes.append(f"{_listed(beside)} in {root}: not used, as the images for training are in {train.name}/")
    return Splits(train, val, tuple(notes))


def check_class_folders(root: Path, classes: list[Path]) -> Iterator[str]:
    """What to tell about class folders that hold folders; InputError where those are splits of each class."""
    for folder in classes:
        inner = subfolders(folder)
        split = next((path for path in inner if split_named(path.name) in ("train", "val")), None)
        if split is not None:
            raise InputError(
                f"{folder}: class folder with a {printable(split.name)}/ of its own, whose images would be mixed; put "
                f"the splits above the classes, as in {root / 'train' / folder.name}"
            )
    if odd := [folder for folder in classes if split_named(folder.name) is not None]:
        yield f"{odd[0]}: taken as a class of that name; a split holds one folder per class"
    nested = [folder for folder in classes if len(subfolders(folder)) > 1 and not _holds_files(folder)]
    if nested:
        first, inner = nested[0], subfolders(nested[0])
        more = f", and {len(nested) - 1} more like it" if len(nested) > 1 else ""
        yield (
            f"{first}: holds {len(inner)} folders and no image, and all of them are the class "
            f"{printable(first.name)!r} ({_listed(inner)}){more}; if those are the classes, put them into one folder"
        )


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() and not is_clutter(path.name) for path in folder.iterdir())


def _holds_files_alone(folder: Path) -> bool:
    return not subfolders(folder) and _holds_files(folder)


def _listed(folders: list[Path]) -> str:
    shown = ", ".join(printable(folder.name) for folder in folders[:_SHOWN])
    return shown if len(folders) <= _SHOWN else f"{shown} and {len(folders) - _SHOWN} more"
