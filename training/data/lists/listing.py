"""The images and their classes: one folder per class, a manifest, or ImageNet's own layout."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.find import find_images, is_clutter
from training.data.lists.label_list import class_numbers, read_classes
from training.data.lists.manifest import is_manifest, read_manifest
from training.data.lists.split_folders import Splits, check_class_folders, find_split_folders, subfolders

_LABEL_FILES = ("LOC_val_solution.csv", "val.txt", "imagenet_2012_validation_synset_labels.txt")
"""Kaggle's edition, Caffe's, and the list of TensorFlow's scripts; searched for next to a flat folder."""


@dataclass(frozen=True, slots=True)
class ImageList:
    """Files with their class numbers. ``class_ids`` are the names of the classes in sorted order."""

    root: Path
    """The folder of the classes, or of the manifest; paths below it are recorded relative to it."""
    class_ids: tuple[str, ...]
    files: tuple[Path, ...]
    targets: tuple[int, ...]
    classes_from: Literal["folders", "manifest", "labels"] = "folders"
    """``labels``: a list for images without class folders."""
    notes: tuple[str, ...] = ()
    """How the folders were understood, where that is not plain; one sentence each, for people."""

    def digest(self) -> str:
        """SHA-256 over class names and relative paths, with the class where no path has it: equal if two lists are."""
        return self._digest(with_classes=self.classes_from != "folders")

    def former_digest(self) -> str:
        """The same without the classes of a list of labels, as earlier runs recorded it."""
        return self._digest(with_classes=self.classes_from == "manifest")

    def _digest(self, *, with_classes: bool) -> str:
        lines = [*self.class_ids]
        for file, target in zip(self.files, self.targets, strict=True):
            path = file.relative_to(self.root) if file.is_relative_to(self.root) else file
            lines.append(f"{path}\t{self.class_ids[target]}" if with_classes else str(path))
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()

    def where(self, mask: NDArray[np.bool_]) -> ImageList:
        """The files for which ``mask`` is true, with the same classes."""
        chosen = np.flatnonzero(mask)
        files, targets = tuple(self.files[i] for i in chosen), tuple(self.targets[i] for i in chosen)
        return dataclasses.replace(self, files=files, targets=targets)


def list_class_folders(root: Path, *, class_ids: tuple[str, ...] | None = None) -> ImageList:
    """All images below ``root/<class>/``.

    With ``class_ids`` (a validation split) the classes must be among them; some may be missing. Raises InputError if
    the folder cannot be used: missing, no classes, a class with splits of its own, a name that cannot be printed. Of
    a manifest, the rows that are not for validation.
    """
    if is_manifest(root):
        return _list_manifest(root, "train", class_ids)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder with one subfolder of images per class")
    folders = subfolders(root)
    found = [folder.name for folder in folders]
    if odd := [name for name in found if not name.isprintable()]:
        raise InputError(f"{root}: class folder {odd[0]!r} has a name that cannot be printed; rename it")
    if class_ids is None:
        if len(found) < 2:
            raise InputError(f"{root}: class folders: {len(found)}, a classifier needs 2; make one folder per class")
        class_ids = tuple(found)
    elif unknown := sorted(set(found) - set(class_ids)):
        raise InputError(f"{root}: class {unknown[0]!r} is not in the training data; rename or remove the folder")
    elif not found:
        raise InputError(f"{root}: holds no class folder; give a folder with one subfolder of images per class")
    notes = tuple(check_class_folders(root, folders))
    listed = [(file, class_ids.index(name)) for name in found for file in find_images([root / name])]
    files, targets = tuple(file for file, _ in listed), tuple(target for _, target in listed)
    return ImageList(root, class_ids, files, targets, notes=notes)


def train_val_split(images: ImageList, val_share: float, seed: int) -> tuple[ImageList, ImageList]:
    """A seeded split into training and validation, with ``val_share`` of each class (at least one image) held out."""
    if not 0 < val_share < 1:
        raise UsageError(f"`val_share` {val_share}: must be a share between 0 and 1, such as 0.1")
    targets = np.array(images.targets)
    held_out = np.zeros(len(targets), bool)
    rng = np.random.default_rng(seed)
    for index, name in enumerate(images.class_ids):
        members = np.flatnonzero(targets == index)
        if len(members) < 2:
            raise InputError(f"class {name!r} has one image and a split needs 2; add images, or give `val`")
        count = min(max(1, round(val_share * len(members))), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    return images.where(~held_out), images.where(held_out)


def list_flat_folder(folder: Path, class_ids: tuple[str, ...], labels: Path | None = None) -> ImageList:
    """ImageNet's validation images as they are published: all in one folder, their classes in a file.

    ``labels`` (else one of the usual names beside the folder or above it) has one line per image: Kaggle's CSV
    ``ImageId,PredictionString``, ``file class`` with a class id or a number among the sorted ids, or a class alone, in
    the order of the sorted files. A file is named by its path below the folder; its name, with or without the suffix,
    is enough where no other file has it. Raises InputError if a line names an unknown class or a file has no line.
    """
    path = labels or _find_labels(folder)
    files = tuple(sorted(find_images([folder])))
    targets, notes = class_numbers(read_classes(path, folder, files), class_ids, files, path)
    return ImageList(folder, class_ids, files, targets, notes=notes, classes_from="labels")


def list_val_images(folder: Path, class_ids: tuple[str, ...], labels: Path | None = None) -> ImageList:
    """Images to measure on, in class folders (all among ``class_ids``), a manifest or ImageNet's flat layout.

    Of a manifest, the rows for validation, or all where none is marked. ``labels``, as for ``list_flat_folder``, means
    the flat layout. Raises InputError as the two list functions do, and for a whole data set instead of one of its
    splits.
    """
    if is_manifest(folder):
        if labels is not None:
            raise UsageError(f"`val_labels` {labels}: {folder} has labels of its own; leave `val_labels` out")
        return _list_manifest(folder, "val", class_ids)
    if any(inside.name not in class_ids for inside in subfolders(folder)):  # else they are its classes, or some of them
        train, val, _ = find_splits(folder)
        if train != folder:
            raise InputError(f"{folder}: holds a whole data set; give one of its splits, such as {val or train}")
    if labels is not None or is_flat(folder):
        return list_flat_folder(folder, class_ids, labels)
    return list_class_folders(folder, class_ids=class_ids)


def is_flat(folder: Path) -> bool:
    """Whether a validation folder holds images and no class folders."""
    children = [path for path in folder.iterdir() if not is_clutter(path.name)] if folder.is_dir() else []
    return bool(children) and not any(path.is_dir() for path in children)


def find_splits(data: Path) -> Splits:
    """The training folder of ``data``, and its validation folder if there is one.

    ``data`` may be a folder of classes, hold ``train/`` and ``val/``, or be ImageNet as Kaggle packs it. A manifest
    is its own training folder, and its validation folder if it marks images for validation. Raises the errors of
    ``find_split_folders``.
    """
    if is_manifest(data):
        return Splits(data, data if any(row.split == "val" for row in read_manifest(data)) else None)
    return find_split_folders(data)


def _list_manifest(path: Path, split: str, class_ids: tuple[str, ...] | None) -> ImageList:
    """The images of one split of a manifest. Without a split, a row trains; validation takes all if none is marked."""
    rows = read_manifest(path)
    whole = split == "val" and not any(row.split == "val" for row in rows)
    chosen = [row for row in rows if whole or (row.split or "train") == split]
    found = sorted({row.label for row in chosen})
    if class_ids is None:
        if len(found) < 2:
            raise InputError(f"{path}: classes for training: {len(found)}, a classifier needs 2; add images of others")
        class_ids = tuple(found)
    elif unknown := sorted(set(found) - set(class_ids)):
        raise InputError(f"{path}: class {unknown[0]!r} is not in the training data; rename or remove its lines")
    numbers = {class_id: number for number, class_id in enumerate(class_ids)}
    files, targets = tuple(row.file for row in chosen), tuple(numbers[row.label] for row in chosen)
    return ImageList(path.parent, class_ids, files, targets, classes_from="manifest")


def _find_labels(folder: Path) -> Path:
    places = (folder, *folder.resolve().parents[:4])
    found = next((place / name for place in places for name in _LABEL_FILES if (place / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{folder}: holds images without class folders, and there is no {_LABEL_FILES[0]}; "
            "give the list of their classes with `val_labels`"
        )
    return found
