"""What a run reached, beside chance and beside always giving one answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import ProofError
from alexnet_deploy.model.checkpoint import load_checkpoint
from training.loop.record.writer import CHECKPOINT, METRICS
from training.loop.run import EpochMetrics, Run

AT_CHANCE = "checkpoint-at-chance.safetensors"
"""Name of the checkpoint of a run that learned nothing."""
CLEARLY_ABOVE = 1.5
"""An accuracy of so many times that of one constant answer is not called chance, however few images measured it."""
_Z = 1.959964
"""Of a normal distribution, 95 % lie within so many standard deviations."""


Verdict = Literal["learned", "unproven", "chance"]
"""``unproven``: above chance, but so few images cannot show it."""


class AtChance(ProofError):
    """The trained model is no better than a constant answer; ``outcome`` has what it reached."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """The validation of the epoch in the checkpoint. All accuracies are in percent, intervals of 95 % (Wilson's)."""

    epoch: int
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


def judge(run: Run, row: EpochMetrics, *, epochs: int) -> Outcome:
    """The outcome of ``run`` by ``row``, the validated epoch of its checkpoint, after ``epochs`` in all.

    The verdict is by the mean over the classes, where every constant answer is worth the same: with classes of unequal
    size, always answering the largest may have a high top-1.
    """
    counts = np.bincount(run.val.targets, minlength=run.arch.num_classes)
    images, present = int(counts.sum()), counts > 0
    top1 = row.val_top1_percent or 0.0
    class_mean = top1 if row.val_class_mean_percent is None else row.val_class_mean_percent
    interval, verdict = judge_class_mean(class_mean, counts)
    largest = int(counts.argmax())
    return Outcome(
        epoch=row.epoch,
        epochs=epochs,
        images=images,
        top1_percent=top1,
        top1_interval=wilson(top1, images),
        class_mean_percent=class_mean,
        class_mean_interval=interval,
        chance_percent=100 / run.arch.num_classes,
        majority=run.labels[largest],
        majority_percent=100 * int(counts[largest]) / images,
        constant_percent=100 / int(present.sum()),
        verdict=verdict,
    )


def judge_class_mean(percent: float, counts: NDArray[np.int64]) -> tuple[tuple[float, float], Verdict]:
    """The interval of a mean over the classes, which have ``counts`` images, and whether it is above chance."""
    counts = counts[counts > 0]
    constant = 100 / len(counts)
    # A mean over classes of n_k images varies like a share of this many; equal classes give the number of images.
    interval = wilson(percent, len(counts) ** 2 / float((1 / counts).sum()))
    if percent > constant + 1e-9 and interval[0] > constant:
        return interval, "learned"
    clearly = min(CLEARLY_ABOVE * constant, (100 + constant) / 2)
    return interval, "unproven" if percent >= clearly - 1e-9 or len(counts) == 1 else "chance"


def wilson(percent: float, images: float) -> tuple[float, float]:
    """Wilson's score interval (1927), 95 %, of a share of ``images``, in percent."""
    share, spread = percent / 100, _Z**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(max(share * (1 - share) * spread + spread**2 / 4, 0.0)) / (1 + spread)
    return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def read_outcome(run: Run) -> Outcome:
    """``judge`` the epoch of the checkpoint of a run, which records its validation."""
    row = EpochMetrics(**load_checkpoint(run.output / CHECKPOINT).recipe["result"])
    with (run.output / METRICS).open("rb") as lines:
        return judge(run, row, epochs=sum(1 for _ in lines))


def set_aside(checkpoint: Path) -> Path:
    """Rename the checkpoint of a run at chance, so nobody takes it for a result; return its new path."""
    return checkpoint.rename(checkpoint.with_name(AT_CHANCE))


def chance_error(outcome: Outcome, checkpoint: Path, run: Run) -> AtChance:
    """The error of a run that ended at chance; its weights are now in ``checkpoint``."""
    advice = "`start` from trained weights, " if run.start is None else ""
    return AtChance(
        f"{run.output}: the model is at chance ({describe_accuracy(outcome)}); its weights are in {checkpoint.name}; "
        f"check the labels, and try {advice}more `epochs` or another `lr`",
        outcome,
    )


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
