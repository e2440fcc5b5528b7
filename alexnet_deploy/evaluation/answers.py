"""The logits of engines for labelled images, from which every measure of accuracy is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled
from alexnet_deploy.images.ten_crops import picture_for_crops
from alexnet_deploy.inference.batches import largest_batch, read_batches
from alexnet_deploy.inference.prediction import BATCH
from alexnet_deploy.inference.side_by_side import call_once
from alexnet_deploy.inference.ten_crops import ten_crop_logits
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner, batch_near

# Legend: N image, H height, W width, C channel (RGB), K class


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of several runners for the same pixels, without the files that cannot be read."""

    files: tuple[Path, ...]
    target_N: NDArray[np.int64]
    logits_NK: tuple[NDArray[np.float32], ...]
    """One array per runner, in their order."""
    unreadable: tuple[str, ...]
    """One line per file that cannot be read."""


def collect_answers(
    runners: Sequence[Runner],
    data: LabelledImages,
    *,
    names: Sequence[str] | None = None,
    ten_crop: bool = False,
    on_progress: Progress = no_progress,
) -> Answers:
    """Run the same decoded pixels through every runner; memory holds one batch and the logits.

    With ``ten_crop`` the logits are those of the averaged probabilities of ten views (``mean_over_views``).
    Errors call the runners by ``names`` (None: by their descriptions).
    Raises UsageError if the runners preprocess differently, because the same pixels would then be wrong for one of
    them, or if only some are multi-label; and InputError if no image can be read.
    """
    names = names or [runner.description for runner in runners]
    pre = _common_preprocessing(runners, names)
    _refuse_other_activations(runners, names)
    kept: list[Path] = []
    targets: list[int] = []
    unreadable: list[str] = []
    parts: list[list[NDArray[np.float32]]] = [[] for _ in runners]
    seen = 0
    sizes = [batch_near(runner, BATCH) for runner in runners]
    if ten_crop:
        pre = picture_for_crops(pre)
    batch = min(next((size for size in sizes if size != BATCH), BATCH), largest_batch(pre))
    call = partial(ten_crop_logits, batch=batch) if ten_crop else call_once
    with closing(read_batches(iter(data.files), pre, batch=batch)) as batches:
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
                    part.append(call(runner, read.pixels_NHWC))
            on_progress("images", seen, len(data.files))
    if not kept:
        raise InputError(f"{data.root}: none of its images can be read; check the folder")
    logits_NK = tuple(np.concatenate(part) for part in parts)
    return Answers(tuple(kept), np.array(targets, np.int64), logits_NK, tuple(unreadable))


def find_or_choose(data: Path, images: int | None) -> tuple[Path, ...]:
    """Return all images below ``data``, or ``images`` of them, drawn evenly from its folders."""
    if images is None:
        return tuple(find_images([data]))
    return choose_images(data, count=images, calibrates=False, parameters=("data", "images")).files


def targets_if_labelled(
    data: Path, files: Sequence[Path], contract: ModelContract
) -> tuple[list[int] | None, str | None]:
    """Return the class numbers of ``files``, which lie below ``data``, or None and the reason in one line."""
    try:
        labelled = list_labelled(data, contract)
    except InputError as exc:
        return None, str(exc)
    target_of = dict(zip(labelled.files, labelled.targets, strict=True))
    outside = next((file for file in files if file not in target_of), None)
    if outside is not None:
        return None, f"{outside}: is not in a class folder; give a folder with one subfolder of images per class"
    return [target_of[file] for file in files], None


def pixel_rule_that_differs(a: Preprocessing, b: Preprocessing) -> str | None:
    """Name the first rule in which the preprocessing of ``a`` and ``b`` differs; None if the pixels are the same."""
    # mean and std act inside the graph
    rules = ("height", "width", "resize", "resize_to", "crop_offset", "interpolation", "decoding")
    return next((rule for rule in rules if getattr(a, rule) != getattr(b, rule)), None)


def _common_preprocessing(runners: Sequence[Runner], names: Sequence[str]) -> Preprocessing:
    first = runners[0].contract.preprocessing
    for runner, name in zip(runners, names, strict=True):
        other = runner.contract.preprocessing
        if (rule := pixel_rule_that_differs(first, other)) is not None:
            raise UsageError(
                f"{names[0]} and {name} preprocess differently ({rule}: {getattr(first, rule)} and "
                f"{getattr(other, rule)}); measure them one at a time"
                + (", or all with `full_decode`" if rule == "decoding" else "")
            )
    return first


def _refuse_other_activations(runners: Sequence[Runner], names: Sequence[str]) -> None:
    """UsageError where one runner's scores are of classes that exclude each other, and another's are not."""
    first = runners[0].contract.activation
    for runner, name in zip(runners, names, strict=True):
        if (other := runner.contract.activation) != first:
            raise UsageError(
                f"{names[0]} and {name} mean different things by their scores (activation {first} and {other}); "
                "measure them one at a time"
            )
