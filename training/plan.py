"""What is to be trained: from the settings of a command to a ``Run``, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import UsageError
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.listing import ImageList
from training.data.lists.splits import list_splits
from training.data.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE
from training.distil.distillation import TeacherSettings, plan_distillation
from training.loop.device import default_precision, emulates_bf16
from training.loop.run import LoopSettings, Run
from training.recipes.named import get_recipe
from training.recipes.recipe import Balance, Recipe, RecipeName, apply_overrides
from training.recipes.small_data import MIN_STEPS, describe_fit, fit_to_data
from training.start.begin import StartReport, begin_with, no_report
from training.start.network import NetworkSettings, architecture_for, check_freeze, labels_for, preprocessing_for
from training.start.seen import MAY_KNOW, may_know, seen_note
from training.start.sources import read_source, read_teacher
from training.test_scale import ScaleSettings, recipe_at_test_scale

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
    recipe = fitted_recipe(settings, len(train_images.files))
    last = recipe_at_test_scale(recipe, settings) if settings.test_scale_epochs else recipe
    if settings.is_only_test_scale:
        if source is None:
            raise UsageError("`epochs` 0: leaves nothing to train at test scale; give the `start`")
        recipe = last
    preprocessing = preprocessing_for(settings, recipe, source)
    recipe = dataclasses.replace(recipe, pixel_std=preprocessing.std)
    class_ids = train_images.class_ids
    arch = architecture_for(settings, len(class_ids), source)
    start, report = None, None
    if source is not None:
        start, report = begin_with(source, arch, class_ids, init=recipe.init, seed=settings.seed)
        on_start(report)
        begun = start.recipe["started_from"] | {MAY_KNOW: may_know(source, train_images, val_images)}
        start = dataclasses.replace(start, recipe={"started_from": begun})
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
        distillation=plan_distillation(settings, train_images.class_ids, recipe, output, read=read_teacher),
        **{field.name: getattr(settings, field.name) for field in dataclasses.fields(LoopSettings)},
    )


def asked_recipe(settings: TrainSettings) -> Recipe:
    """The recipe of ``settings``, whatever the data."""
    epochs = None if settings.is_only_test_scale else settings.epochs
    changes = {name: getattr(settings, name) for name in ("batch", "lr", "balance", "head_lr", "unfreeze_every")}
    changes["freeze"] = None if settings.freeze == "none" else settings.freeze
    name = settings.recipe or ("modern" if settings.start is None else "transfer")
    return apply_overrides(get_recipe(name, epochs=epochs, **changes), settings.overrides or ())


def fitted_recipe(settings: TrainSettings, images: int) -> Recipe:
    """The recipe of ``settings`` for so many training images."""
    fixed = {name for name in ("batch", "lr", "head_lr") if getattr(settings, name) is not None}
    fixed |= {override.partition("=")[0] for override in settings.overrides or ()}
    return fit_to_data(asked_recipe(settings), images, fixed)


def run_notes(run: Run, settings: TrainSettings) -> Iterator[str]:
    """What to tell before the run: how folders were understood, what the start may know, what little data changed."""
    yield from run.train.notes
    yield from run.val.notes
    if run.start is not None and (doubt := seen_note(run.start.recipe)) is not None:
        yield doubt
    images = len(run.train.files)
    asked = dataclasses.replace(asked_recipe(settings), pixel_std=run.recipe.pixel_std)  # which a source decides
    if not settings.is_only_test_scale and (changed := describe_fit(asked, run.recipe, images)) is not None:
        yield changed
    if run.precision == "bf16" and emulates_bf16():
        faster = default_precision()
        yield f"`precision` bf16: this processor has no instructions for it; {faster} is many times as fast"
    if run.start is None and images < MIN_STEPS * asked.batch:
        yield FINE_TUNE_INSTEAD
