"""What a recipe becomes on little data: its epochs are made for thousands of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from training.epochs import counted
from training.recipes.recipe import Recipe

MIN_STEPS = 20
"""Fewest steps of an epoch; whatever is counted in epochs (warm-up, decay, patience) then lasts so many of them."""
MIN_BATCH = 32
"""Smallest batch while there are so many images; below, the work per step is more than that of its images."""
MIN_WARMUP_STEPS = 100
"""Fewest steps of a warm-up, up to a quarter of the run. Within two steps, the loss of 160 images leaps to 39."""


def fit_to_data(recipe: Recipe, images: int, fixed: Collection[str] = ()) -> Recipe:
    """``recipe`` for a training split of ``images``, without a change to the fields that are ``fixed``.

    With ``MIN_STEPS`` full batches or more it stays as it is. With fewer images the batch is halved until there are so
    many, or to ``MIN_BATCH``; then an epoch shows each image several times. The learning rate follows the batch: in
    proportion for SGD (Goyal et al., arXiv:1706.02677), with the square root for AdamW (Malladi et al.,
    arXiv:2205.10330). A warm-up lasts at least ``MIN_WARMUP_STEPS``, and at most a quarter of the run.
    """
    if images < 1 or images >= MIN_STEPS * recipe.batch:
        return recipe
    changes: dict[str, Any] = {}
    if "batch" not in fixed:
        changes["batch"] = _batch(recipe.batch, images)
        if "lr" not in fixed:
            factor = changes["batch"] / recipe.batch
            changes |= _rates(recipe, factor if recipe.optimizer == "sgd" else math.sqrt(factor), fixed)
    batch = changes.get("batch", recipe.batch)
    if "repeats" not in fixed and batch <= images:
        changes["repeats"] = max(recipe.repeats, -(-MIN_STEPS * batch // images))
    fitted = dataclasses.replace(recipe, **changes)
    if "warmup_epochs" not in fixed and recipe.warmup_epochs:
        per_epoch = fitted.steps_per_epoch(images)
        steps = max(recipe.warmup_epochs * per_epoch, MIN_WARMUP_STEPS)
        fitted = dataclasses.replace(fitted, warmup_epochs=min(steps / per_epoch, fitted.epochs / 4))
    return fitted


def describe_fit(before: Recipe, after: Recipe, images: int) -> str | None:
    """What ``fit_to_data`` changed, as one line; None where it changed nothing."""
    if before == after:
        return None
    parts = []
    if after.batch != before.batch:
        parts.append(f"batch {after.batch} instead of {before.batch}")
    if after.lr != before.lr:
        parts.append(f"rate {after.lr:.2g} instead of {before.lr:.2g}")
    if after.repeats != before.repeats:
        parts.append(f"each image {counted(after.repeats, 'time')} per epoch, with other crops")
    per_epoch = after.steps_per_epoch(images)
    if warmup := round(after.warmup_epochs * per_epoch):
        parts.append(f"a warm-up of {counted(warmup, 'step')}")
    whole = f"{counted(after.epochs, 'epoch')} of {counted(per_epoch, 'step')}"
    return f"{counted(images, 'training image')}: {'; '.join([', '.join(parts), whole] if parts else [whole])}"


def _batch(largest: int, images: int) -> int:
    batch = largest
    while batch > MIN_BATCH and images < MIN_STEPS * batch:
        batch = max(batch // 2, MIN_BATCH)
    return min(batch, 1 << (images.bit_length() - 1))


def _rates(recipe: Recipe, factor: float, fixed: Collection[str]) -> dict[str, float]:
    """The learning rates of ``recipe``, of all groups, times ``factor``."""
    names = [name for field in dataclasses.fields(recipe) if (name := field.name) == "lr" or name.endswith("_lr")]
    rates = {name: getattr(recipe, name) for name in names if name not in fixed}
    return {name: rate * factor for name, rate in rates.items() if rate is not None}
