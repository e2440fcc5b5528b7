"""The last epochs of a run at the scale of inference.

A random crop is enlarged to the network's side, so while training a network sees larger objects than in inference.
Touvron et al., "Fixing the train-test resolution discrepancy" (FixRes, arXiv:1906.06423), end training with a few
epochs on pictures as the test shows them, in which only the last layers learn. Here those pictures are what
inference's own preprocessing gives, mirrored at random and nothing else; the convolutions are fixed or learn at a rate
of their own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from alexnet_deploy.errors import InputError, ProofError, UsageError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.epochs import AT_TEST_SCALE, epochs_of
from training.loop.divergence import StillAtChance
from training.loop.fit import fit
from training.loop.lock import only_run
from training.loop.record.writer import set_aside
from training.loop.run import EpochMetrics, OnEpoch, Run, no_epochs
from training.loop.state import check_no_run
from training.recipes.recipe import Recipe
from training.results.outcome import AtChance, describe_accuracy, describe_chance, is_at_chance, judge
from training.run_files import CHECKPOINT, STATE_FILE

FOLDER = "test-scale"
"""Run directory of the last epochs, inside that of the run."""
START = "start.safetensors"
"""What the last epochs began with; the run's own checkpoint is replaced by their result."""
RATE = 0.1
"""Default peak rate, relative to the recipe's."""
LOWEST_RATE = 1e-8


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """How a run ends at the scale of inference."""

    test_scale_epochs: int = 0
    """Epochs at that scale, after those of the recipe; 0: none."""
    test_scale_lr: float | None = None
    """Their peak rate, which falls to 0; None: a tenth of the recipe's."""
    test_scale_conv_lr: float | None = None
    """The same for the convolutions; None: 0, they are fixed."""

    def check_test_scale(self) -> None:
        """UsageError for a value that cannot be, or one without an effect."""
        if self.test_scale_epochs < 0:
            raise UsageError(f"`test_scale_epochs` {self.test_scale_epochs}: must be 0 or more")
        for name, lowest in (("test_scale_lr", LOWEST_RATE), ("test_scale_conv_lr", 0.0)):
            value = getattr(self, name)
            if value is not None and not self.test_scale_epochs:
                raise UsageError(f"`{name}` {value}: has no effect without `test_scale_epochs`; add it")
            if value is not None and not lowest <= value <= 100:
                raise UsageError(f"`{name}` {value}: must be a number from {lowest:g} to 100")


def recipe_at_test_scale(recipe: Recipe, settings: ScaleSettings) -> Recipe:
    """The recipe of the last epochs of a run that ``recipe`` describes: its optimizer, loss and batch.

    No average of the weights: where the rate ends at 0 it changes nothing (docs/training.md). UsageError where the
    default rate is too low, or where one is for layers that stay frozen.
    """
    freeze = recipe.freeze if recipe.unfreeze_every is None else None
    if freeze is not None and settings.test_scale_conv_lr:
        raise UsageError(
            f"`test_scale_conv_lr` {settings.test_scale_conv_lr}: has no effect with `freeze` {freeze}; leave one of "
            "the two out"
        )
    if settings.test_scale_lr is None and RATE * recipe.lr < LOWEST_RATE:
        raise UsageError(
            f"`lr` {recipe.lr:g}: a tenth of it, the rate of `test_scale_epochs`, is below {LOWEST_RATE:g}; raise it, "
            "or give `test_scale_lr`"
        )
    return dataclasses.replace(
        recipe,
        epochs=settings.test_scale_epochs,
        lr=RATE * recipe.lr if settings.test_scale_lr is None else settings.test_scale_lr,
        conv_lr=settings.test_scale_conv_lr or 0.0,
        head_lr=None,
        unfreeze_every=None,
        freeze=freeze,
        schedule="cosine",
        warmup_epochs=0.0,
        view="inference",
        sides=(),
        augment="none",
        mix="none",
        pca_sigma=0.0,
        standardise=False,
        ema_decay=None,
    )


def check_last_epochs(run: Run, settings: ScaleSettings) -> None:
    """InputError if the folder holds the last epochs of another run, or some that ``settings`` do not ask for."""
    if not run.resume:
        check_no_run(run.output / FOLDER)
    elif not settings.test_scale_epochs and (run.output / FOLDER / STATE_FILE).is_file():
        raise InputError(f"{run.output}: this run ends at test scale; give the `test_scale_epochs` that it had")


def end_at_test_scale(
    run: Run,
    settings: ScaleSettings,
    *,
    held: bool = False,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
) -> Path:
    """Train the last epochs of ``run``, whose own are done; return the run's checkpoint, which is now their result.

    They are a run of their own in ``test-scale/``, which goes on where it was stopped; ``start.safetensors`` there is
    the checkpoint before them. Every process calls this; ``held`` as for ``fit``. Raises the errors of ``fit``, and
    AtChance where they ended at chance a model that was not: the run's checkpoint is then the one before them.
    """
    with only_run(run.output, held=held):
        return _end_at_test_scale(run, settings, on_epoch=on_epoch, on_progress=on_progress)


def _end_at_test_scale(run: Run, settings: ScaleSettings, *, on_epoch: OnEpoch, on_progress: Progress) -> Path:
    folder, checkpoint = run.output / FOLDER, run.output / CHECKPOINT
    leads = not dist.is_initialized() or dist.get_rank() == 0
    if dist.is_initialized():
        dist.barrier()  # until the first process has written the checkpoint
    resume = (folder / STATE_FILE).is_file()
    start = load_checkpoint(folder / START if resume else checkpoint)
    if AT_TEST_SCALE in start.recipe:
        raise InputError(f"{checkpoint}: already ends at test scale, and {folder} is gone; choose another `output`")
    if leads and not resume:
        save_checkpoint(start, folder / START)
    recipe = recipe_at_test_scale(run.recipe, settings)
    last = dataclasses.replace(run, recipe=recipe, start=start, output=folder, resume=resume, early_stop=None)
    try:
        path = fit(last, on_epoch=on_epoch, on_progress=on_progress)
    except ProofError as exc:
        if leads and (folder / CHECKPOINT).is_file():
            _set_aside_at_chance(run, load_checkpoint(folder / CHECKPOINT), folder / CHECKPOINT)
        text = str(exc).replace("`lr`", "`test_scale_lr`")
        text = f"{text}; {checkpoint} is the model before the epochs at test scale"
        raise (StillAtChance(text, exc.row) if isinstance(exc, StillAtChance) else ProofError(text)) from exc
    if leads:
        trained = load_checkpoint(path)
        whole = _joined(start, trained)
        if _set_aside_at_chance(run, trained, path) and not is_at_chance(run, _result_of(start)):
            raise _ruined(run, start, whole, recipe)
        save_checkpoint(whole, checkpoint)
    return checkpoint


def _joined(start: Checkpoint, trained: Checkpoint) -> Checkpoint:
    """``trained`` with the record of the run that ``start`` came from, and of the epochs after it."""
    before = start.recipe["result"]
    # Counted on from the epochs that these weights have seen.
    result = trained.recipe["result"] | {"epoch": before["epoch"] + trained.recipe["result"]["epoch"]}
    record = {"recipe": trained.recipe["recipe"], "start": trained.recipe["start"], "result_before": before}
    return dataclasses.replace(trained, recipe=start.recipe | {"result": result, AT_TEST_SCALE: record})


def _result_of(checkpoint: Checkpoint) -> EpochMetrics:
    return EpochMetrics(**checkpoint.recipe["result"])


def _set_aside_at_chance(run: Run, trained: Checkpoint, path: Path) -> bool:
    """Whether ``trained`` is at chance; its file ``path`` then loses its name."""
    if found := is_at_chance(run, _result_of(trained)):
        set_aside(path)
    return found


def _ruined(run: Run, start: Checkpoint, whole: Checkpoint, recipe: Recipe) -> AtChance:
    """The error of epochs at test scale that ended a good model at chance."""
    outcome = judge(run, _result_of(whole), epochs_of(whole.recipe), before=_result_of(start))
    return AtChance(
        f"{run.output}: after the epochs at test scale the model is {describe_chance(few=outcome.few)} "
        f"({describe_accuracy(outcome)}); {CHECKPOINT} is the model before them, with top-1 "
        f"{outcome.before_test_scale_percent:.1f} %; lower `test_scale_lr` (it was {recipe.lr:g}), or leave "
        "`test_scale_epochs` out, with another `output`",
        outcome,
    )
