"""What a run reached, beside chance and beside always giving one answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import ProofError
from alexnet_deploy.model.checkpoint import load_checkpoint
from training.epochs import AT_TEST_SCALE, Epochs, epochs_of
from training.loop.run import EpochMetrics, Run
from training.run_files import CHECKPOINT, METRICS

CLEARLY_ABOVE = 1.5
"""An accuracy of so many times that of one constant answer is not called chance, however few images measured it."""
_Z = 1.959964
"""Of a normal distribution, 95 % lie within so many standard deviations."""


Verdict = Literal["learned", "unproven", "chance"]
"""``unproven``: probably above chance, but so few images cannot show it. ``chance``: nothing speaks for more, be it
that the images show chance or that they are too few (``Judgement.few``)."""


class Judgement(NamedTuple):
    """What validation images say about a mean over the classes."""

    interval: tuple[float, float]
    verdict: Verdict
    few: bool
    """A useful model could have got this result as well: the images are too few to tell it from chance."""


class AtChance(ProofError):
    """The trained model is no better than a constant answer; ``outcome`` has what it reached."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """The validation of the epoch in the checkpoint. All accuracies are in percent, intervals of 95 % (Wilson's)."""

    epoch: int
    """Of the run's own epochs, without those at test scale."""
    epochs: int
    """Epochs that the run was trained for."""
    images: int
    """Validation images."""
    top1_percent: float
    top1_interval: tuple[float, float]
    class_mean_percent: float
    class_mean_interval: tuple[float, float]
    chance_percent: float
    """Top-1 of a blind guess: one class of all."""
    majority: str
    majority_percent: float
    """Top-1 of always answering ``majority``, the most frequent class of the validation images."""
    constant_percent: float
    """Mean over the classes of any constant answer: one class of those that validation has."""
    verdict: Verdict
    few: bool
    """The images are too few to tell the model from chance, or to show that it is at chance."""
    chosen: bool
    """The epoch was chosen by these images, so they flatter it a little."""
    test_scale_epochs: int
    before_test_scale_percent: float | None
    """Top-1 before those epochs."""


def judge(run: Run, row: EpochMetrics, epochs: Epochs, *, before: EpochMetrics | None = None) -> Outcome:
    """The outcome of ``run`` by ``row``, the validation of its checkpoint, which ``epochs`` describes.

    ``before`` is the validation before the epochs at test scale.

    The verdict is by the mean over the classes, where every constant answer is worth the same: with classes of unequal
    size, always answering the largest may have a high top-1.
    """
    counts = np.bincount(run.val.targets, minlength=run.arch.num_classes)
    images, present = int(counts.sum()), counts > 0
    top1 = row.val_top1_percent or 0.0
    class_mean = class_mean_of(row)
    judgement = judge_class_mean(class_mean, counts)
    largest = int(counts.argmax())
    return Outcome(
        epoch=epochs.kept or row.epoch,
        epochs=epochs.trained or row.epoch,
        images=images,
        top1_percent=top1,
        top1_interval=wilson(top1, images),
        class_mean_percent=class_mean,
        class_mean_interval=judgement.interval,
        chance_percent=100 / run.arch.num_classes,
        majority=run.labels[largest],
        majority_percent=100 * int(counts[largest]) / images,
        constant_percent=100 / int(present.sum()),
        verdict=judgement.verdict,
        few=judgement.few,
        chosen=epochs.chosen,
        test_scale_epochs=epochs.test_scale,
        before_test_scale_percent=None if before is None else before.val_top1_percent,
    )


def class_mean_of(row: EpochMetrics) -> float:
    """The mean over the classes in a validated epoch; earlier runs recorded top-1 alone."""
    return (row.val_top1_percent or 0.0) if row.val_class_mean_percent is None else row.val_class_mean_percent


def is_at_chance(run: Run, row: EpochMetrics) -> bool:
    """Whether the validation ``row`` of ``run`` is no better than a constant answer."""
    return judge_class_mean(class_mean_of(row), np.bincount(run.val.targets)).verdict == "chance"


def judge_class_mean(percent: float, counts: NDArray[np.int64]) -> Judgement:
    """Whether a mean over the classes, which have ``counts`` images, is above that of a constant answer.

    Shown by the 95 % interval: ``learned``. Where that cannot be, the result has to be one that fewer than one model
    in six reaches at chance, and that fits a useful model: ``unproven``. Of 24 photos of two classes those are 15.
    """
    counts = counts[counts > 0]
    constant = 100 / len(counts)
    # A mean over classes of n_k images varies like a share of this many; equal classes give the number of images.
    images = len(counts) ** 2 / float((1 / counts).sum())
    interval = wilson(percent, images)
    useful = min(CLEARLY_ABOVE * constant, (100 + constant) / 2)
    few = interval[1] >= useful - 1e-9 and interval[0] <= constant
    above = percent > constant + 1e-9
    if above and interval[0] > constant:
        return Judgement(interval, "learned", few=False)
    if len(counts) == 1 or percent >= useful - 1e-9 or (above and few and wilson(percent, images, 1.0)[0] > constant):
        return Judgement(interval, "unproven", few=True)
    return Judgement(interval, "chance", few=few)


def wilson(percent: float, images: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval (1927), 95 %, of a share of ``images``, in percent; ``z`` standard deviations wide."""
    share, spread = percent / 100, z**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(max(share * (1 - share) * spread + spread**2 / 4, 0.0)) / (1 + spread)
    return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def read_outcome(run: Run) -> Outcome:
    """``judge`` the epoch of the checkpoint of a run, which records its validation.

    A run that diverges at the save after its first epoch has a checkpoint and no record of its epochs.
    """
    recipe = load_checkpoint(run.output / CHECKPOINT).recipe
    before = recipe.get(AT_TEST_SCALE, {}).get("result_before")
    try:
        with (run.output / METRICS).open("rb") as lines:
            epochs = epochs_of(recipe, sum(1 for _ in lines))
    except FileNotFoundError:
        epochs = epochs_of(recipe)
    result = EpochMetrics(**recipe["result"])
    return judge(run, result, epochs, before=None if before is None else EpochMetrics(**before))


def chance_error(outcome: Outcome, checkpoint: Path, run: Run) -> AtChance:
    """The error of a run that ended at chance; its weights are now in ``checkpoint``."""
    start = "`start` from trained weights, " if run.start is None else ""
    advice = f"check the labels, and try {start}more `epochs` or another `lr`"
    if outcome.few:
        advice = f"measure it on more images (`val`, or `folds`), or {advice}"
    return AtChance(
        f"{run.output}: the model is {describe_chance(few=outcome.few)} ({describe_accuracy(outcome)}); its weights "
        f"are in {checkpoint.name}; {advice}",
        outcome,
    )


def describe_chance(*, few: bool) -> str:
    """How a verdict of chance is worded: what ``few`` images cannot show is not claimed."""
    return "not shown to be above chance" if few else "at chance"


def describe_accuracy(outcome: Outcome) -> str:
    """The accuracy of ``outcome`` with its interval, beside those of a blind guess and of one constant answer."""
    low, high = outcome.top1_interval
    text = (
        f"top-1 {outcome.top1_percent:.1f} % of {outcome.images} validation images, 95 % interval {low:.1f}..{high:.1f}"
    )
    if abs(outcome.class_mean_percent - outcome.top1_percent) > 0.05:
        low, high = outcome.class_mean_interval
        text += f"; mean over the classes {outcome.class_mean_percent:.1f} %, {low:.1f}..{high:.1f}"
    return (
        f"{text}; a blind guess has {outcome.chance_percent:.1f} %, always answering "
        f"{outcome.majority!r} {outcome.majority_percent:.1f} %"
    )
