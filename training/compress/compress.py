"""From a trained checkpoint to one with its hidden dense layers at a lower rank, and the cost of each rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.compress.low_rank import Spectrum, check_rank, compress_to_rank, decompose_hidden_layers, rank_for
from training.compress.rank_table import RankRow, measure_checkpoint
from training.data.lists.listing import ImageList, find_splits, list_val_images
from training.data.lists.splits import list_training
from training.data.loader import check_batch, eval_batches
from training.distil.distillation import TeacherSettings, plan_distillation
from training.loop.fit import fit
from training.loop.lock import make_writable, only_run
from training.loop.run import OnEpoch, Run, no_epochs
from training.loop.state import check_no_run, no_run
from training.output import check_output
from training.recipes.named import get_recipe
from training.recipes.small_data import fit_to_data
from training.start.sources import read_teacher
from training.test_scale import ScaleSettings, check_last_epochs, end_at_test_scale, recipe_at_test_scale

START = "start.safetensors"
"""The start of the run: a resumed run must not depend on a second decomposition, whose last bits may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressSettings(TeacherSettings, ScaleSettings):
    """How a checkpoint is compressed: to a ``rank``, or to the rank that keeps a share of each layer's ``energy``.

    Teachers take part in the fine-tuning, and the last epochs at test scale follow it.
    """

    rank: int | None = None
    energy: float | None = None
    images: int = 512
    """Training images to fit the outputs on; 0: fit the weights, a plain SVD."""
    epochs: int = 0
    """Epochs of fine-tuning; 0: no fine-tuning."""
    batch: int | None = None
    lr: float | None = None
    val: Path | None = None
    val_labels: Path | None = None
    workers: int = 2
    seed: int = 0
    resume: bool = False
    """Continue a fine-tuning of the same output."""

    def __post_init__(self) -> None:
        if self.images == 1:
            raise UsageError("`images` 1: one image has no variance; use some hundred, or 0 for the weights alone")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(f"`energy` {self.energy}: must be a share above 0 and at most 1, such as 0.9")
        if self.resume and not self.tunes:
            raise UsageError("`resume`: continues a fine-tuning; give the `epochs` that it had")
        self.check_test_scale()
        of_tuning = ("teacher", "lr", "batch", "distill_temperature", "distill_weight", "teacher_view")
        if not self.tunes and (given := [name for name in of_tuning if getattr(self, name)]):
            raise UsageError(f"`{given[0]}`: takes part in a fine-tuning; give its `epochs`")

    @property
    def tunes(self) -> bool:
        """Whether anything is trained."""
        return self.epochs > 0 or self.test_scale_epochs > 0


def compress(
    checkpoint: Path,
    data: Path,
    output: Path,
    settings: CompressSettings,
    *,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
) -> Checkpoint:
    """Write a compressed and, if ``settings.tunes``, fine-tuned copy of ``checkpoint`` to ``output``; return it.

    ``data`` is what the checkpoint was trained on: ``train/`` and ``val/``, or training images. Fine-tuning keeps its
    run beside ``output``, as ``NAME.run``; ``on_epoch`` gets each epoch's metrics and the number of epochs.
    Raises UsageError for a rank that makes nothing smaller, InputError for unsuitable data or checkpoints, and the
    errors of ``fit``.
    """
    if (settings.rank is None) == (settings.energy is None):
        raise UsageError("give one of `rank` and `energy`")
    parent = _load_full(checkpoint)
    if settings.rank is not None:
        check_rank(settings.rank, parent.arch, asked=f"`rank` {settings.rank}")
    train = _list_train(data, parent, checkpoint)
    check_output(output, checkpoint)
    sample = _sample(train, settings)
    record: dict[str, Any] = {
        "asked": {"energy": settings.energy} if settings.rank is None else {"rank": settings.rank},
        "images": len(sample.files),
        "seed": settings.seed,
        "parent_sha256": sha256_of(checkpoint),
    }

    def decompose() -> Checkpoint:
        spectra = _decompose(parent, sample, settings.workers, on_progress)
        rank = rank_for(spectra, settings.energy or 0.0) if settings.rank is None else settings.rank
        check_rank(rank, parent.arch, asked=f"`energy` {settings.energy}")
        return compress_to_rank(parent, spectra, rank, **record)

    if settings.tunes:
        run = _fine_tuning(parent, data, train, output, settings)
        compressed = fine_tune(run, decompose, record, settings, on_epoch=on_epoch, on_progress=on_progress)
    else:
        compressed = decompose()
    save_checkpoint(compressed, output)
    return compressed


def measure_ranks(
    checkpoint: Path,
    data: Path,
    ranks: Sequence[int],
    settings: CompressSettings,
    *,
    duration_s: float = 3.0,
    on_progress: Progress = no_progress,
) -> list[RankRow]:
    """The full model and the checkpoint at each of ``ranks``, without fine-tuning; each latency takes ``duration_s``.

    Of the settings, only the images, the validation folder, workers and seed are used.
    """
    parent = _load_full(checkpoint)
    for rank in ranks:
        check_rank(rank, parent.arch, asked=f"`ranks` {','.join(map(str, ranks))}")
    train = _list_train(data, parent, checkpoint)
    val = _list_val(data, train, settings)
    spectra = _decompose(parent, _sample(train, settings), settings.workers, on_progress)
    rows: list[RankRow] = []
    for candidate in (parent, *(compress_to_rank(parent, spectra, rank) for rank in ranks)):
        on_progress("measuring", len(rows), len(ranks) + 1)
        rows.append(measure_checkpoint(candidate, val, workers=settings.workers, duration_s=duration_s))
    return rows


def _load_full(checkpoint: Path) -> Checkpoint:
    parent = load_checkpoint(checkpoint)
    if parent.arch.dense_rank is not None:
        raise InputError(
            f"{checkpoint}: already has rank {parent.arch.dense_rank}; give the full checkpoint that it was made from"
        )
    return parent


def _list_train(data: Path, parent: Checkpoint, source: Path) -> ImageList:
    """The training images of ``data``, which must have exactly the classes of the checkpoint."""
    train, _ = list_training(data)
    known = parent.contract.class_ids
    if train.class_ids != known:
        odd = sorted(set(train.class_ids) ^ set(known))
        raise InputError(
            f"{train.root}: its {len(train.class_ids)} classes are not the {len(known)} of {source} "
            f"({odd[0] if odd else 'another order'!r}); give the data that it was trained on"
        )
    return train


def _list_val(data: Path, train: ImageList, settings: CompressSettings) -> ImageList:
    folder = settings.val or find_splits(data).val
    if folder is None:
        raise InputError(f"{data}: has no val/; give `val` with images that the checkpoint was not trained on")
    return list_val_images(folder, train.class_ids, settings.val_labels)


def _sample(train: ImageList, settings: CompressSettings) -> ImageList:
    chosen = np.zeros(len(train.files), bool)
    chosen[np.random.default_rng(settings.seed).permutation(len(chosen))[: settings.images]] = True
    return train.where(chosen)


def _decompose(parent: Checkpoint, sample: ImageList, workers: int, on_progress: Progress) -> dict[str, Spectrum]:
    pre = parent.contract.preprocessing
    batches = eval_batches(sample, pre, batch=64, workers=workers) if sample.files else None
    return decompose_hidden_layers(parent, batches, on_progress=on_progress)


def _fine_tuning(parent: Checkpoint, data: Path, train: ImageList, output: Path, settings: CompressSettings) -> Run:
    val = _list_val(data, train, settings)
    pre = parent.contract.preprocessing
    epochs = settings.epochs or None
    recipe = get_recipe("finetune", epochs=epochs, batch=settings.batch, lr=settings.lr, pixel_std=pre.std)
    fixed = {name for name in ("batch", "lr") if getattr(settings, name) is not None}
    recipe = fit_to_data(recipe, len(train.files), fixed)
    last = recipe_at_test_scale(recipe, settings) if settings.test_scale_epochs else recipe
    if epochs is None:
        recipe = last
    folder = run_folder(output)
    if not settings.resume:
        check_batch(recipe.batch, len(train.files))  # the loop also checks it, but only after the decomposition
    return Run(
        arch=parent.arch,
        recipe=recipe,
        train=train,
        val=val,
        labels=parent.contract.labels,
        preprocessing=pre,
        output=folder,
        distillation=plan_distillation(settings, train.class_ids, recipe, folder, read=read_teacher),
        seed=settings.seed,
        workers=settings.workers,
        resume=settings.resume,
    )


def run_folder(output: Path) -> Path:
    """Where the fine-tuning of ``output`` keeps its run."""
    return output.with_suffix(".run")


def fine_tune(
    run: Run,
    make_start: Callable[[], Checkpoint],
    record: dict[str, Any],
    settings: CompressSettings,
    *,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
) -> Checkpoint:
    """Train the checkpoint of ``make_start``: its architecture and weights replace those of ``run``.

    Then come the epochs at test scale that ``settings`` ask for, unless those of ``run`` are at test scale. The recipe
    of the result combines those of the run and the start. With ``run.resume`` the start is read from the run's folder
    instead: InputError if its recipe does not hold ``record`` under ``compressed``. Raises the errors of ``fit``.
    """
    check_last_epochs(run, settings)
    if run.resume and not run.output.is_dir():
        raise no_run(run.output)
    make_writable(run.output)
    with only_run(run.output):  # before its start is overwritten, which the run there needs to go on
        start = _resume(run.output, record) if run.resume else _begin(run.output, make_start)
        tuned = dataclasses.replace(run, arch=start.arch, start=start)
        path = fit(tuned, held=True, on_epoch=on_epoch, on_progress=on_progress)
        if settings.epochs and settings.test_scale_epochs:
            path = end_at_test_scale(tuned, settings, held=True, on_epoch=on_epoch, on_progress=on_progress)
    trained = load_checkpoint(path)
    return dataclasses.replace(trained, recipe=trained.recipe | start.recipe)


def _begin(folder: Path, make_start: Callable[[], Checkpoint]) -> Checkpoint:
    check_no_run(folder)
    start = make_start()
    save_checkpoint(start, folder / START)
    return start


def _resume(folder: Path, record: dict[str, Any]) -> Checkpoint:
    if not (folder / START).is_file():
        raise no_run(folder)
    start = load_checkpoint(folder / START)
    had = start.recipe.get("compressed", {})
    for key, value in record.items():
        if had.get(key) != value:
            raise InputError(
                f"{folder}: this run had {key} {had.get(key)}, now it is {value}; "
                "use the same settings and checkpoint, or another `output`"
            )
    return start
