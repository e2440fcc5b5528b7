"""Cross-validation: as many runs as folds, each validated on the images that it did not see."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.exclude import exclude_images
from training.data.lists.folds import fold_splits
from training.data.lists.splits import list_training
from training.data.preflight import PreflightReport
from training.loop.run import OnEpoch, no_epochs
from training.plan import TrainSettings, plan_run
from training.processes import is_distributed
from training.results.outcome import AtChance, Outcome, describe_chance, judge_class_mean, wilson
from training.run_files import STATE_FILE
from training.start.begin import StartReport, no_report
from training.train import train_run

FOLDS_FILE = "folds.json"


@dataclass(frozen=True, slots=True)
class FoldsResult:
    """Accuracies in percent over the folds; ``outcomes`` has one per fold."""

    outcomes: tuple[Outcome, ...]
    mean_percent: float
    """Top-1, the mean of the folds."""
    spread_percent: float
    """Standard deviation of a fold's top-1 from that mean."""
    class_mean_percent: float
    """The mean of the folds' means over the classes."""
    images: int
    """Each was validated once."""
    pooled_interval: tuple[float, float]
    """95 % interval of top-1 over all ``images``."""


def cross_validate(
    data: Path,
    output: Path,
    settings: TrainSettings,
    folds: int,
    *,
    on_start: Callable[[StartReport], None] = no_report,
    on_note: Callable[[str], None] = lambda text: None,
    on_preflight: Callable[[PreflightReport], None] = lambda report: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> FoldsResult:
    """Train on the images of ``data`` once per fold, in ``output/fold-N``; write ``output/folds.json``.

    A validation split of ``data`` is left out. With ``settings.resume`` the folds that have begun go on, and the others
    begin. A fold at chance counts like any other: few images measure it. Raises UsageError for settings that choose the
    validation images otherwise, the errors of ``train``, and ProofError where all folds together are at chance.
    """
    if is_distributed():
        raise UsageError("`folds`: trains in one process; start it without torchrun")
    for name in ("val", "val_labels", "val_share"):
        if getattr(settings, name) is not None:
            raise UsageError(f"`{name}`: the folds choose the validation images; leave it or `folds` out")
    images, val_folder = list_training(data)
    if settings.exclude is not None:
        (images,) = exclude_images(data, settings.exclude, images)
    if val_folder is not None:
        on_note(f"{val_folder}: its validation images are left out; the folds split the training images")
    outcomes: list[Outcome] = []
    for number, split in enumerate(fold_splits(images, folds, settings.seed), 1):
        target = output / f"fold-{number}"
        resumes = settings.resume and (target / STATE_FILE).is_file()
        fold_settings = dataclasses.replace(settings, resume=resumes, skip_report=True)
        tell = on_start if number == 1 else no_report  # the same for all
        run = plan_run(data, target, fold_settings, split=split, on_start=tell, on_progress=on_progress)
        on_note(f"fold {number} of {folds}: {len(run.train.files)} training, {len(run.val.files)} validation images")

        def keep(outcome: Outcome) -> None:
            outcomes.append(outcome)
            on_outcome(outcome)

        try:
            train_run(
                run,
                fold_settings,
                on_note=on_note if number == 1 else lambda text: None,
                on_preflight=on_preflight if number == 1 else lambda report: None,
                on_epoch=on_epoch,
                on_progress=on_progress,
                on_outcome=keep,
            )
        except AtChance as exc:
            outcomes.append(exc.outcome)
            on_note(str(exc))
    result = summarise(outcomes)
    counts = np.bincount(images.targets, minlength=len(images.class_ids))
    judgement = judge_class_mean(result.class_mean_percent, counts)
    if judgement.verdict == "chance":
        low, high = result.pooled_interval
        raise ProofError(
            f"{output}: the {folds} folds together are {describe_chance(few=judgement.few)} (top-1 "
            f"{result.mean_percent:.1f} % in the mean, 95 % interval {low:.1f}..{high:.1f}); check the labels, and try "
            "more `epochs` or another `lr`"
        )
    with atomic_file(output / FOLDS_FILE) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


def summarise(outcomes: list[Outcome]) -> FoldsResult:
    """Mean and spread of the folds, of which there are two or more."""
    top1 = [outcome.top1_percent for outcome in outcomes]
    images = sum(outcome.images for outcome in outcomes)
    right = sum(outcome.top1_percent * outcome.images / 100 for outcome in outcomes)
    return FoldsResult(
        outcomes=tuple(outcomes),
        mean_percent=math.fsum(top1) / len(top1),
        spread_percent=statistics.stdev(top1),
        class_mean_percent=math.fsum(outcome.class_mean_percent for outcome in outcomes) / len(outcomes),
        images=images,
        pooled_interval=wilson(100 * right / images, images),
    )
