"""From a folder of labelled images to a run directory with a checkpoint."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.json_format import decode_json, read_users_file
from alexnet_deploy.model.architecture import Architecture, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.data.listing import ImageList, find_splits, list_class_folders, list_val_images, train_val_split
from training.data.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, PreflightReport, inspect_data
from training.loop.fit import fit
from training.loop.run import LoopSettings, OnEpoch, Run, no_epochs
from training.loop.state import check_run_folder
from training.recipe import RecipeName, apply_overrides
from training.recipes import get_recipe

PREFLIGHT_FILE = "preflight.txt"
PROCESS_TIMEOUT = timedelta(days=1)
"""Time that processes wait for each other while the first one reads every file: torch's own 30 minutes are too short
for ImageNet's 1.28 million. If one dies, torchrun ends the others, so none waits in vain."""
Activation = Literal["relu", "tanh"]
Lrn = Literal["none", "before-pool", "after-pool"]
Pool = Literal["overlapping", "plain"]
Resize = Literal["shorter-side", "stretch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(LoopSettings):
    """How to train; the names are those of the command's options. None: the recipe's or the architecture's own."""

    arch: str = "alexnet"
    dense_rank: int | None = None
    """Rank of the two hidden dense layers; None: full."""
    dropout: float = 0.5
    activation: Activation | None = None
    lrn: Lrn | None = None
    pool: Pool | None = None
    groups: Sequence[int] | None = None
    """Groups of each of the five convolutions."""
    recipe: RecipeName = "modern"
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    overrides: Sequence[str] | None = None
    """``FIELD=VALUE`` of any other field of the recipe."""
    val: Path | None = None
    """Validation folder; None: ``val/`` of the data, else a seeded split."""
    val_labels: Path | None = None
    val_share: float | None = None
    class_names: Path | None = None
    """JSON file ``{"folder name": "name for people"}``."""
    resize: Resize = "shorter-side"
    allow_unreadable: bool = False
    allow_leak: bool = False
    allow_two_classes: bool = False
    skip_preflight: bool = False
    start: Path | None = None
    """Checkpoint to start from instead of random weights."""

    def allowed(self) -> list[str]:
        """The settings that let training start in spite of a finding of the preflight."""
        return [name for name in (ALLOW_UNREADABLE, ALLOW_LEAK, ALLOW_TWO_CLASSES) if getattr(self, name)]


def train(
    data: Path,
    output: Path,
    settings: TrainSettings,
    *,
    on_preflight: Callable[[PreflightReport], None] = lambda report: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
) -> Path:
    """Train a member of the family on ``data``; return the checkpoint in the run directory ``output``.

    Under torchrun, every process calls this and the first one writes. ``on_epoch`` gets each epoch's metrics and the
    number of epochs. Raises UsageError and InputError for settings and data that do not fit, before the first step, and
    the errors of ``fit``.
    """
    run = plan_run(data, output, settings)
    _make_writable(output)
    usable = torch.ones(len(run.train.files) + len(run.val.files), dtype=torch.uint8)
    if leads():
        # Before the processes meet: on an error torchrun ends the others, and none waits in vain.
        check_run_folder(run, unknown=("data",) if settings.allow_unreadable else ())
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
    keep, count = usable.bool().numpy(), len(run.train.files)
    run = dataclasses.replace(run, train=run.train.where(keep[:count]), val=run.val.where(keep[count:]))
    return fit(run, on_epoch=on_epoch, on_progress=on_progress)


def is_distributed() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def leads() -> bool:
    """Whether this is the only process, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def plan_run(data: Path, output: Path, settings: TrainSettings) -> Run:
    """The run that ``settings`` describe; writes nothing."""
    if settings.skip_preflight and settings.allowed():
        raise UsageError(f"`{settings.allowed()[0]}`: has no effect with `skip_preflight`; leave one of the two out")
    train_images, val_images = _list_images(data, settings)
    recipe = get_recipe(settings.recipe, epochs=settings.epochs, batch=settings.batch, lr=settings.lr)
    recipe = apply_overrides(recipe, settings.overrides or ())
    arch = _architecture(settings, len(train_images.class_ids))
    stretch = settings.resize == "stretch"
    return Run(
        arch=arch,
        recipe=recipe,
        train=train_images,
        val=val_images,
        labels=_labels(settings.class_names, train_images.class_ids),
        preprocessing=Preprocessing(resize=settings.resize, resize_to=None if stretch else 256, std=recipe.pixel_std),
        output=output,
        start=_start(settings.start, arch, train_images.class_ids) if settings.start else None,
        **{field.name: getattr(settings, field.name) for field in dataclasses.fields(LoopSettings)},
    )


def _list_images(data: Path, settings: TrainSettings) -> tuple[ImageList, ImageList]:
    """Training and validation images."""
    train_folder, val_folder = find_splits(data)
    val_folder = settings.val or val_folder
    train_images = list_class_folders(train_folder)
    if val_folder is None:
        if settings.val_labels is not None:
            raise UsageError(f"`val_labels` {settings.val_labels}: needs a validation folder; add `val`")
        share = 0.1 if settings.val_share is None else settings.val_share
        return train_val_split(train_images, share, settings.seed)
    if settings.val_share is not None:
        raise UsageError(f"`val_share` {settings.val_share}: {val_folder} is for validation; leave `val_share` out")
    return train_images, list_val_images(val_folder, train_images.class_ids, settings.val_labels)


def _architecture(settings: TrainSettings, classes: int) -> Architecture:
    arch = get_architecture(
        settings.arch, num_classes=classes, dense_rank=settings.dense_rank, dropout=settings.dropout
    )
    changes: dict[str, Any] = {"activation": settings.activation, "lrn": settings.lrn}
    if settings.pool is not None:
        changes["overlapping_pool"] = settings.pool == "overlapping"
    if settings.groups is not None:
        changes["groups"] = _checked_groups(tuple(settings.groups), arch)
    return dataclasses.replace(arch, **{key: value for key, value in changes.items() if value is not None})


def _checked_groups(groups: tuple[int, ...], arch: Architecture) -> tuple[int, ...]:
    text = ",".join(map(str, groups))
    if len(groups) != len(arch.widths) or min(groups) < 1:
        raise UsageError(f"`groups` {text}: must be five whole numbers, one per convolution, such as 1,2,1,2,2")
    for number, (count, fan_in, fan_out) in enumerate(zip(groups, (3, *arch.widths), arch.widths, strict=False), 1):
        if fan_in % count or fan_out % count:
            raise UsageError(
                f"`groups` {text}: {count} does not divide the {fan_in} channels into convolution {number} of "
                f"{arch.name} and the {fan_out} out of it; choose a number that does"
            )
    return groups


def _labels(class_names: Path | None, class_ids: tuple[str, ...]) -> tuple[str, ...]:
    if class_names is None:
        return class_ids
    try:
        names = decode_json(read_users_file(class_names), dict[str, Any])
        return tuple(str(names[class_id]) for class_id in class_ids)
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(
            f'{class_names}: is not a readable JSON object ({exc}); write {{"folder name": "name for people"}}'
        ) from exc
    except KeyError as exc:
        raise InputError(f"{class_names}: has no name for class {exc.args[0]!r}; add it") from exc


def _start(path: Path, arch: Architecture, class_ids: tuple[str, ...]) -> Checkpoint:
    """The checkpoint to start from; its weights must fit and its outputs mean the same classes."""
    start = load_checkpoint(path)
    if start.contract.class_ids != class_ids:
        raise InputError(
            f"`start` {path}: has {len(start.contract.class_ids)} classes ({start.contract.class_ids[0]}, ...), the "
            f"data has {len(class_ids)} ({class_ids[0]}, ...); train on the same classes, or without `start`"
        )
    shaped = dataclasses.replace(arch, dropout=start.arch.dropout)
    if start.arch != shaped:
        raise InputError(
            f"`start` {path}: has another architecture ({start.arch.name}, dense rank {start.arch.dense_rank}); "
            "give the `arch`, `dense_rank` and switches that it was trained with"
        )
    return start


def _make_writable(output: Path) -> None:
    """Make the run directory; an error if nothing can be saved there appears now, not after the first epoch."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(f"`output` {output}: cannot be made ({exc.strerror}); choose another place") from exc
    if not os.access(output, os.W_OK | os.X_OK):
        raise UnavailableError(f"`output` {output}: cannot be written; choose another place")
