"""Folders of labelled images: the class of each file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.find import find_images, is_clutter

# Legend: N image, H height, W width, C channel (RGB), K class


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Image files with their class numbers, sorted by class."""

    root: Path
    files: tuple[Path, ...]
    targets: tuple[int, ...]
    naming: str = "class id"
    """Naming of the folders: ``class id``, ``label``, ``class number``, or several of them."""


def list_unlabelled(folder: Path) -> LabelledImages:
    """All images of ``folder``, which show no class: their class number -1 is right for no answer.

    Raises InputError if there are none.
    """
    files = tuple(find_images([folder]))
    return LabelledImages(folder, files, (-1,) * len(files), "nothing")


def list_labelled(folder: Path, contract: ModelContract, model: str = "this model") -> LabelledImages:
    """All images of ``folder``, which has one subfolder per class, named by class id, label or class number.

    One naming for all folders is preferred, in this order. If none fits all, each folder is matched by the first one
    that contains its name. Raises InputError if a folder matches no class of the contract or several, if two match
    the same class, if one is empty, or if there are none; ``model`` is the name of the engine for its message.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder with one subfolder of images per class")
    names = sorted(d.name for d in folder.iterdir() if d.is_dir() and not is_clutter(d.name))
    if not names:
        raise InputError(
            f"{folder}: holds no class folders; its classes are {', '.join(contract.class_ids[:3])}, ...: "
            "give a folder with one subfolder of images per class"
        )
    targets, naming = _classes_of(folder, names, contract, model)
    folder_of: dict[int, str] = {}
    for name, target in zip(names, targets, strict=True):
        if (other := folder_of.setdefault(target, name)) != name:
            raise InputError(
                f"{folder}: folders {other!r} and {name!r} are the same class ({_called(contract, target)}); "
                "merge them, or remove one"
            )
    files: list[Path] = []
    target_of: list[int] = []
    for name, target in zip(names, targets, strict=True):
        try:
            found = list(find_images([folder / name]))
        except InputError as exc:
            raise InputError(f"{folder / name}: is a class folder without an image; fill it, or remove it") from exc
        files += found
        target_of += [target] * len(found)
    return LabelledImages(folder, tuple(files), tuple(target_of), naming)


def _classes_of(folder: Path, names: Sequence[str], contract: ModelContract, model: str) -> tuple[list[int], str]:
    """The class number of each folder, and the naming of the folders."""
    by_label: dict[str, list[int]] = {}
    for k, label in enumerate(contract.labels):
        by_label.setdefault(label, []).append(k)
    count = len(contract.labels)
    namings = {
        "class id": {class_id: [k] for k, class_id in enumerate(contract.class_ids)},
        "label": by_label,
        # Zero-padded numbers as well, which keep a listing in the order of the classes.
        "class number": {n: [int(n)] for n in names if n.isascii() and n.isdecimal() and int(n) < count},
    }
    fits_all = next(({key: known} for key, known in namings.items() if known.keys() >= set(names)), namings)
    classes: list[int] = []
    used: dict[str, int] = {}
    for name in names:
        naming = next((key for key, known in fits_all.items() if name in known), None)
        if naming is None:
            raise InputError(_no_class(folder, name, names, namings, contract, model))
        candidates = fits_all[naming][name]
        if len(candidates) > 1:
            ids = " or ".join(contract.class_ids[k] for k in candidates)
            raise InputError(f"{folder}: {name!r} is the label of {len(candidates)} classes; name the folder {ids}")
        classes.append(candidates[0])
        used[naming] = used.get(naming, 0) + 1
    return classes, " and ".join(used)


def _no_class(
    folder: Path,
    name: str,
    names: Sequence[str],
    namings: dict[str, dict[str, list[int]]],
    contract: ModelContract,
    model: str,
) -> str:
    """The reason that the folder matches no class, and the class that was probably meant."""
    message = f"{folder}: folder {name!r} is not a class of {model}"
    matched = {naming: sum(n in known for n in names) for naming, known in namings.items()}
    best = max(matched, key=lambda naming: matched[naming])
    if matched[best]:
        message += f" ({matched[best]} of {len(names)} folders are named by {best})"
    inside = [d.name for d in (folder / name).iterdir() if d.is_dir()]
    if any(n in known for known in namings.values() for n in inside):
        return f"{message}, but holds class folders; give {folder / name}"
    spellings = {_plain(text): text for text in (*contract.labels, *contract.class_ids)}
    close = difflib.get_close_matches(_plain(name), spellings, n=1, cutoff=0.7)
    if close:
        return f"{message}; did you mean {spellings[close[0]]!r}?"
    examples = [_called(contract, k) for k in range(min(3, len(contract.labels)))]
    more = ", ..." if len(contract.labels) > 3 else ""
    classes = f"its classes are {', '.join(examples)}{more}"
    return f"{message}; {classes}: rename the folder, or choose a model of its classes"


def _plain(text: str) -> str:
    return text.casefold().replace("_", " ").replace("-", " ")


def _called(contract: ModelContract, k: int) -> str:
    class_id, label = contract.class_ids[k], contract.labels[k]
    return class_id if class_id == label else f"{class_id} ({label})"
