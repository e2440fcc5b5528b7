"""Labelled images, and the logits that engines give them: what every measure of accuracy starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images import find_images
from alexnet_deploy.infer import read_batches
from alexnet_deploy.runners import Runner

# Legend: N image, K class


@dataclass(frozen=True, slots=True)
class Labelled:
    """Image files with their class numbers, class by class."""

    root: Path
    files: tuple[Path, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What each of several runners says of the same pixels; files that cannot be read are left out of all."""

    files: tuple[Path, ...]
    target_N: NDArray[np.int64]
    logits_NK: tuple[NDArray[np.float32], ...]
    """One array a runner, in the order in which the runners were given."""
    unreadable: tuple[str, ...]
    """The one line that says why, a file."""


def list_labelled(folder: Path, contract: ModelContract) -> Labelled:
    """All images of ``folder``, which holds one folder of images a class, named by class id, label or class number.

    Raises InputError where a folder is no class of the contract, a class folder is empty, or there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds one folder of images a class")
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    numbers = {str(k): k for k in range(len(contract.labels))}
    numbers |= {label: k for k, label in enumerate(contract.labels)} | {i: k for k, i in enumerate(contract.class_ids)}
    unknown = next((d.name for d in classes if d.name not in numbers), None)
    if unknown is not None or not classes:
        raise InputError(
            f"{folder}: {f'folder {unknown!r} is no class of this model' if unknown else 'holds no class folders'}; "
            f"its classes are {', '.join(contract.class_ids[:3])}, ..."
        )
    files: list[Path] = []
    targets: list[int] = []
    for directory in classes:
        found = list(find_images([directory]))
        files += found
        targets += [numbers[directory.name]] * len(found)
    return Labelled(folder, tuple(files), tuple(targets))


def answers_of(
    runners: Sequence[Runner], data: Labelled, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Answers:
    """Run the same decoded pixels through every runner; memory is one batch and the logits.

    Raises UsageError where the runners preprocess differently (then the same pixels mean nothing to one of them),
    InputError where no image can be read.
    """
    pre = _common_preprocessing(runners)
    kept: list[Path] = []
    targets: list[int] = []
    unreadable: list[str] = []
    parts: list[list[NDArray[np.float32]]] = [[] for _ in runners]
    seen = 0
    for read in read_batches(iter(data.files), pre):
        for file, target, error in zip(read.files, data.targets[seen:], read.errors, strict=False):
            if error is None:
                kept.append(file)
                targets.append(target)
            else:
                unreadable.append(error)
        seen += len(read.files)
        if len(read.pixels_NHWC):
            for runner, part in zip(runners, parts, strict=True):
                part.append(runner(read.pixels_NHWC))
        on_progress(seen, len(data.files))
    if not kept:
        raise InputError(f"{data.root}: none of its images is readable; check the folder")
    logits_NK = tuple(np.concatenate(part) for part in parts)
    return Answers(tuple(kept), np.array(targets, np.int64), logits_NK, tuple(unreadable))


def _common_preprocessing(runners: Sequence[Runner]) -> Preprocessing:
    # mean and std act inside the graph: only what makes the pixels must agree
    pixels = {
        (p.height, p.width, p.resize, p.resize_to, p.interpolation)
        for p in (runner.contract.preprocessing for runner in runners)
    }
    if len(pixels) != 1:
        raise UsageError(
            f"{runners[0].description} and another engine preprocess differently; measure them one at a time"
        )
    return runners[0].contract.preprocessing
