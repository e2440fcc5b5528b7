"""From a folder of labelled images to a run directory with a checkpoint."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from alexnet_deploy.errors import DeployError, ProofError, UnavailableError, UsageError
from alexnet_deploy.progress import Progress, no_progress
from training.data.listing import ImageList
from training.data.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, PreflightReport, inspect_data
from training.data.splits import list_splits
from training.distil.distillation import TeacherSettings, plan_distillation
from training.loop.fit import fit
from training.loop.run import LoopSettings, OnEpoch, Run, no_epochs
from training.loop.state import check_run_folder
from training.loop.writer import CHECKPOINT
from training.outcome import Outcome, chance_error, read_outcome, set_aside
from training.recipe import Balance, Recipe, RecipeName, apply_overrides
from training.recipes import get_recipe
from training.report.files import write_report
from training.report.images import DataSettings
from training.small_data import MIN_STEPS, describe_fit, fit_to_data
from training.start.begin import StartReport, begin_with, no_report
from training.start.network import (
    NetworkSettings,
    architecture_for,
    check_freeze,
    labels_for,
    preprocessing_for,
)
from training.start.sources import read_source
from training.test_scale import ScaleSettings, check_last_epochs, end_at_test_scale, recipe_at_test_scale

PREFLIGHT_FILE = "preflight.txt"
PROCESS_TIMEOUT = timedelta(days=1)
"""Time that processes wait for each other while the first one reads every file: torch's own 30 minutes are too short
for ImageNet's 1.28 million. If one dies, torchrun ends the others, so none waits in vain."""
FINE_TUNE_INSTEAD = (
    "trained weights learn these classes from far fewer images than drawn ones: add `start` shipped "
    "(docs/training.md has the comparison)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(LoopSettings, NetworkSettings, TeacherSettings, ScaleSettings):
    """How to train; the names are those of the command's options. None: the recipe's or the architecture's own."""

    recipe: RecipeName | None = None
    """None: ``modern``, with ``start`` ``transfer``."""
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    overrides: Sequence[str] | None = None
    """``FIELD=VALUE`` of any other field of the recipe."""
    balance: Balance | None = None
    exclude: Path | None = None
    """List of images to leave out, one path per line."""
    val: Path | None = None
    """Validation folder; None: ``val/`` of the data, else a seeded split."""
    val_labels: Path | None = None
    val_share: float | None = None
    allow_unreadable: bool = False
    allow_leak: bool = False
    allow_two_classes: bool = False
    skip_preflight: bool = False
    skip_report: bool = False
    """Write no report.html and card.md at the end."""

    @property
    def is_only_test_scale(self) -> bool:
        """Whether only the epochs at test scale are asked for."""
        return self.epochs == 0 and self.test_scale_epochs > 0

    def allowed(self) -> list[str]:
        """The settings that let training start in spite of a finding of the preflight."""
        return [name for name in (ALLOW_UNREADABLE, ALLOW_LEAK, ALLOW_TWO_CLASSES) if getattr(self, name)]


def train(
    data: Path,
    output: Path,
    settings: TrainSettings,
    *,
    on_start: Callable[[StartReport], None] = no_report,
    on_note: Callable[[str], None] = lambda text: None,
    on_preflight: Callable[[PreflightReport], None] = lambda report: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Path:
    """Train a member of the family on ``data``; return the checkpoint in the run directory ``output``.

    Under torchrun, every process calls this and the first one writes. ``on_start`` gets what becomes of the weights of
    ``start``, ``on_note`` lines about the run before it starts, with parameters in backticks, ``on_epoch`` each epoch's
    metrics and the number of epochs, ``on_outcome`` what a finished run reached. Raises UsageError and InputError for
    settings and data that do not fit, before the first step, the errors of ``fit``, and ProofError where the finished
    model is at chance: its checkpoint is then kept under another name.
    """
    run = plan_run(data, output, settings, on_start=on_start if leads() else no_report, on_progress=on_progress)
    checkpoint = train_run(
        run, settings, on_note=on_note, on_preflight=on_preflight, on_epoch=on_epoch, on_progress=on_progress,
        on_outcome=on_outcome,
    )  # fmt: skip
    if leads():
        names = (field.name for field in dataclasses.fields(DataSettings) if field.name != "data")
        DataSettings(data, **{name: getattr(settings, name) for name in names}).write(output)
    return checkpoint


def train_run(
    run: Run,
    settings: TrainSettings,
    *,
    on_note: Callable[[str], None] = lambda text: None,
    on_preflight: Callable[[PreflightReport], None] = lambda report: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Path:
    """Inspect the data of a planned run and ``train_and_judge`` it: ``train`` from its second step on."""
    output = run.output
    count = len(run.train.files)
    _make_writable(output)
    usable = torch.ones(len(run.train.files) + len(run.val.files), dtype=torch.uint8)
    if leads():
        # Before the processes meet: on an error torchrun ends the others, and none waits in vain.
        # Without the files that cannot be read, the data is another, and a recipe for little data may be.
        fitted = _fitted_recipe(settings, count) != _asked_recipe(settings)
        unknown = ("data", "recipe") if fitted else ("data",)
        check_run_folder(run, unknown=unknown if settings.allow_unreadable else ())
        check_last_epochs(run, settings)
        if not settings.skip_preflight:
            report = inspect_data(run.train, run.val, threads=max(1, run.workers), on_progress=on_progress)
            report.write(output / PREFLIGHT_FILE)
            on_preflight(report)
            report.check(settings.allowed())
            usable = torch.from_numpy(report.readable.astype(np.uint8))
    if is_distributed():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PROCESS_TIMEOUT)
        dist.broadcast(usable, 0)
    keep = usable.bool().numpy()
    run = dataclasses.replace(run, train=run.train.where(keep[:count]), val=run.val.where(keep[count:]))
    if not keep[:count].all() and not settings.is_only_test_scale:
        recipe = _fitted_recipe(settings, len(run.train.files))
        run = dataclasses.replace(run, recipe=dataclasses.replace(recipe, pixel_std=run.recipe.pixel_std))
    if leads():
        for text in run_notes(run, settings):
            on_note(text)
    return train_and_judge(
        run, settings, on_note=on_note, on_epoch=on_epoch, on_progress=on_progress, on_outcome=on_outcome
    )


def train_and_judge(
    run: Run,
    settings: TrainSettings,
    *,
    on_note: Callable[[str], None] = lambda text: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Path:
    """Train a run whose data has been inspected, and compare the result with chance: ProofError if it is no better.

    The checkpoint then has the name ``AT_CHANCE``, so nobody takes it for a result.
    """
    output = run.output
    try:
        checkpoint = fit(run, on_epoch=on_epoch, on_progress=on_progress)
        if settings.test_scale_epochs and not settings.is_only_test_scale:
            checkpoint = end_at_test_scale(run, settings, on_epoch=on_epoch, on_progress=on_progress)
    except ProofError:
        # An epoch before may have been good: only what is at chance loses its name.
        if leads() and (output / CHECKPOINT).is_file() and read_outcome(run).verdict == "chance":
            set_aside(output / CHECKPOINT)
        raise
    if leads():
        outcome = read_outcome(run)
        if outcome.verdict == "chance":
            raise chance_error(outcome, set_aside(checkpoint), run)
        on_outcome(outcome)
        if not settings.skip_report:
            _report(run, on_note=on_note, on_progress=on_progress)
    return checkpoint


def _report(run: Run, *, on_note: Callable[[str], None], on_progress: Progress) -> None:
    """Write the report of a finished run; a note instead of an error if it cannot be written: the weights are whole."""
    try:
        write_report(run.output, run.train, run.val, workers=run.workers, on_progress=on_progress)
    except DeployError as exc:
        on_note(f"no report of the run: {exc}; write it later: python -m training report")


def is_distributed() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def leads() -> bool:
    """Whether this is the only process, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def plan_run(
    data: Path,
    output: Path,
    settings: TrainSettings,
    *,
    split: tuple[ImageList, ImageList] | None = None,
    on_start: Callable[[StartReport], None] = no_report,
    on_progress: Progress = no_progress,
) -> Run:
    """The run that ``settings`` describe, on ``split`` instead of the splits of ``data``; writes nothing.

    ``on_start`` gets what becomes of the weights of ``start``, ``on_progress`` the bytes of their download.
    """
    if settings.skip_preflight and settings.allowed():
        raise UsageError(f"`{settings.allowed()[0]}`: has no effect with `skip_preflight`; leave one of the two out")
    train_images, val_images = split or list_splits(
        data,
        val=settings.val,
        val_labels=settings.val_labels,
        val_share=settings.val_share,
        exclude=settings.exclude,
        seed=settings.seed,
    )
    settings.check_test_scale()
    source = None if settings.start is None else read_source(settings.start, on_progress=on_progress)
    recipe = _fitted_recipe(settings, len(train_images.files))
    if settings.is_only_test_scale:
        if source is None:
            raise UsageError("`epochs` 0: leaves nothing to train at test scale; give the `start`")
        recipe = recipe_at_test_scale(recipe, settings)
    preprocessing = preprocessing_for(settings, recipe, source)
    recipe = dataclasses.replace(recipe, pixel_std=preprocessing.std)
    class_ids = train_images.class_ids
    arch = architecture_for(settings, len(class_ids), source)
    start, report = None, None
    if source is not None:
        start, report = begin_with(source, arch, class_ids, init=recipe.init, seed=settings.seed)
        on_start(report)
    check_freeze(recipe, report)
    return Run(
        arch=arch,
        recipe=recipe,
        train=train_images,
        val=val_images,
        labels=labels_for(settings, class_ids, source),
        preprocessing=preprocessing,
        output=output,
        start=start,
        distillation=plan_distillation(settings, train_images.class_ids, recipe, output),
        **{field.name: getattr(settings, field.name) for field in dataclasses.fields(LoopSettings)},
    )


def _asked_recipe(settings: TrainSettings) -> Recipe:
    """The recipe of ``settings``, whatever the data."""
    epochs = None if settings.is_only_test_scale else settings.epochs
    changes = {name: getattr(settings, name) for name in ("batch", "lr", "balance", "head_lr", "unfreeze_every")}
    changes["freeze"] = None if settings.freeze == "none" else settings.freeze
    name = settings.recipe or ("modern" if settings.start is None else "transfer")
    return apply_overrides(get_recipe(name, epochs=epochs, **changes), settings.overrides or ())


def _fitted_recipe(settings: TrainSettings, images: int) -> Recipe:
    """The recipe of ``settings`` for so many training images."""
    fixed = {name for name in ("batch", "lr", "head_lr") if getattr(settings, name) is not None}
    fixed |= {override.partition("=")[0] for override in settings.overrides or ()}
    return fit_to_data(_asked_recipe(settings), images, fixed)


def run_notes(run: Run, settings: TrainSettings) -> Iterator[str]:
    """What to tell before the run about little data."""
    images = len(run.train.files)
    asked = dataclasses.replace(_asked_recipe(settings), pixel_std=run.recipe.pixel_std)  # which a source decides
    if not settings.is_only_test_scale and (changed := describe_fit(asked, run.recipe, images)) is not None:
        yield changed
    if run.start is None and images < MIN_STEPS * asked.batch:
        yield FINE_TUNE_INSTEAD


def _make_writable(output: Path) -> None:
    """Make the run directory; an error if nothing can be saved there appears now, not after the first epoch."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(f"`output` {output}: cannot be made ({exc.strerror}); choose another place") from exc
    if not os.access(output, os.W_OK | os.X_OK):
        raise UnavailableError(f"`output` {output}: cannot be written; choose another place")
