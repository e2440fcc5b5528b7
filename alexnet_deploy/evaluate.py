"""Labelled images + a Runner -> accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.images import find_images
from alexnet_deploy.infer import read_batches
from alexnet_deploy.runners import Runner


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of images whose class is the first, or among the first five answers. Unreadable files are left out."""

    description: str
    images: int
    unreadable: int
    top1_percent: float
    top5_percent: float


def evaluate(runner: Runner, folder: Path) -> Accuracy:
    """Accuracy on ``folder``, which holds one folder of images a class, named by class id, label or class number."""
    targets: list[int] = []
    files = _labelled(folder, runner.contract, targets)
    top1 = top5 = images = unreadable = seen = 0
    for read in read_batches(files, runner.contract.preprocessing):
        mine = targets[seen : seen + len(read.files)]
        seen += len(mine)
        target_N = np.array([target for target, error in zip(mine, read.errors, strict=True) if error is None], int)
        unreadable += len(read.files) - len(target_N)
        if not len(target_N):
            continue
        order_NK = np.argsort(-runner(read.pixels_NHWC), axis=1, kind="stable")[:, :5]
        hit_NK = order_NK == target_N[:, None]
        top1 += int(hit_NK[:, 0].sum())
        top5 += int(hit_NK.any(axis=1).sum())
        images += len(target_N)
    if not images:
        raise InputError(f"{folder}: none of its images is readable; check the folder")
    return Accuracy(runner.description, images, unreadable, 100 * top1 / images, 100 * top5 / images)


def _labelled(folder: Path, contract: ModelContract, targets: list[int]) -> Iterator[Path]:
    """Files class by class; each one's class number goes to ``targets`` as it is yielded."""
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
    for directory in classes:
        for file in find_images([directory]):
            targets.append(numbers[directory.name])
            yield file
