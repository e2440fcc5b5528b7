"""Training runs of a few steps with a tiny network, for tests of what a run does and leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.model.architecture import get_architecture
from alexnet_deploy.model.checkpoint import load_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from tests.helpers.photos import CLASSES
from training.data.lists.listing import list_class_folders
from training.loop.fit import fit
from training.loop.run import EpochMetrics, Run
from training.recipes.named import get_recipe

SMALL_PICTURES = ((0.0, 64),)
"""Sides of a recipe: all epochs at 64 pixels, a twelfth of the work."""
TINY = {"widths": (8, 16, 16, 16, 16), "hidden": 16}
"""An ``alexnet`` of 20 thousand weights: a step takes milliseconds, a state 300 KiB."""


def run_of(photos: Path, output: Path, *, epochs: int, batch: int, dropout: float = 0.5) -> Run:
    """``modern`` with averaged weights on ``photo_folder``, with small pictures and no augmentation."""
    images = list_class_folders(photos / "train")
    recipe = get_recipe("modern", epochs=epochs, batch=batch, ema_decay=0.998, augment="none", sides=SMALL_PICTURES)
    return Run(
        arch=get_architecture("alexnet", num_classes=len(CLASSES), dropout=dropout, **TINY),
        recipe=recipe,
        train=images,
        val=list_class_folders(photos / "val", class_ids=images.class_ids),
        labels=("red", "green", "blue"),
        preprocessing=Preprocessing(),
        output=output,
        workers=0,
    )


def changed(run: Run, **changes: Any) -> Run:
    """``run`` with ``changes``; a dict changes single fields of the recipe, the architecture and the like."""
    whole = {
        name: dataclasses.replace(getattr(run, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(run, **whole)


def rows_of(run: Run, on_progress: Progress = no_progress) -> list[EpochMetrics]:
    """Train; one row per epoch."""
    rows: list[EpochMetrics] = []
    fit(run, on_epoch=lambda row, _: rows.append(row), on_progress=on_progress)
    return rows


def interrupt_at(*steps: int, number: signal.Signals = signal.SIGINT) -> Progress:
    """A callback that sends this process a signal after each of ``steps``."""

    def on_progress(stage: str, done: int, total: int) -> None:
        if done in steps:
            os.kill(os.getpid(), number)

    return on_progress


def metrics_of(output: Path) -> list[dict[str, Any]]:
    """The record of a run directory, one dict per epoch."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint in a run directory."""
    return load_checkpoint(output / "checkpoint.safetensors").weights


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
