"""Training runs of a few steps, for tests of what a run does and leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.model.architecture import architecture
from tests.helpers.photos import CLASSES
from training.listing import list_folder
from training.loop import train
from training.recipes import recipe
from training.run import EpochRow, Run


def run_of(photos: Path, output: Path, *, epochs: int, batch: int, dropout: float = 0.5, **changes: Any) -> Run:
    """``modern`` with averaged weights on ``photo_folder``, 16 hidden units, plain pictures and ``changes``."""
    listing = list_folder(photos / "train")
    chosen = recipe("modern", epochs=epochs, batch=batch, ema_decay=0.998)
    return Run(
        arch=architecture("alexnet", num_classes=len(CLASSES), hidden=16, dropout=dropout),
        recipe=dataclasses.replace(chosen, **({"augment": "none", "sides": ()} | changes)),
        train=listing,
        val=list_folder(photos / "val", class_ids=listing.class_ids),
        data_digest=listing.digest(photos / "train"),
        labels=tuple(CLASSES),
        preprocessing=Preprocessing(),
        output=output,
        workers=0,
    )


def rows_of(run: Run) -> list[EpochRow]:
    """Train; a row an epoch."""
    rows: list[EpochRow] = []
    train(run, on_epoch=rows.append, on_step=lambda step, total: None)
    return rows
