"""The logits that engines give labelled images: what every measure of accuracy starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.labelled import Labelled
from alexnet_deploy.inference.predict import read_batches
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, H height, W width, C channel (RGB), K class


@dataclass(frozen=True, slots=True)
class Answers:
    """What each of several runners says of the same pixels; files that cannot be read are left out of all."""

    files: tuple[Path, ...]
    target_N: NDArray[np.int64]
    logits_NK: tuple[NDArray[np.float32], ...]
    """One array a runner, in the order in which the runners were given."""
    unreadable: tuple[str, ...]
    """The one line that says why, a file."""


def answers_of(
    runners: Sequence[Runner],
    data: Labelled,
    *,
    names: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Run the same decoded pixels through every runner; memory is one batch and the logits.

    Errors call the runners by ``names`` (None: by what runs them).
    Raises UsageError where the runners preprocess differently (then the same pixels mean nothing to one of them),
    InputError where no image can be read.
    """
    pre = _common_preprocessing(runners, names or [runner.description for runner in runners])
    kept: list[Path] = []
    targets: list[int] = []
    unreadable: list[str] = []
    parts: list[list[NDArray[np.float32]]] = [[] for _ in runners]
    seen = 0
    with closing(read_batches(iter(data.files), pre)) as batches:
        for read in batches:
            mine = data.targets[seen : seen + len(read.files)]
            for file, target, error in zip(read.files, mine, read.errors, strict=True):
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


def _common_preprocessing(runners: Sequence[Runner], names: Sequence[str]) -> Preprocessing:
    first = runners[0].contract.preprocessing
    for runner, name in zip(runners, names, strict=True):
        other = runner.contract.preprocessing
        # mean and std act inside the graph: only what makes the pixels must agree
        for rule in ("height", "width", "resize", "resize_to", "interpolation"):
            a, b = getattr(first, rule), getattr(other, rule)
            if a != b:
                raise UsageError(
                    f"{names[0]} and {name} preprocess differently ({rule}: {a} and {b}); measure them one at a time"
                )
    return first


def predicted(logits_NK: NDArray[np.float32]) -> NDArray[np.int64]:
    """The first answer for each image; -1 where a logit is NaN or infinite."""
    return np.where(np.isfinite(logits_NK).all(axis=1), logits_NK.argmax(axis=1), -1).astype(np.int64)
