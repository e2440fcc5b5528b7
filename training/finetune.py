"""Fine-tuning of a checkpoint that was changed: a run of the training loop that begins with its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.loop import train
from training.run import EpochRow, Run
from training.state import STATE_FILE

START = "start.safetensors"
"""What the run began with: a resumed one must not depend on a second decomposition, whose last bits may differ."""


def fine_tune(
    run: Run, begin: Callable[[], Checkpoint], record: dict[str, Any], *, on_epoch: Callable[[EpochRow], None]
) -> Checkpoint:
    """Train what ``begin`` makes (its architecture and weights, not those of ``run``); all else is as ``run`` says.

    The result's recipe is that of the run and that of the start. With ``run.resume`` the start is read from the run's
    folder instead: InputError where its recipe does not hold ``record`` under ``compressed``. Stopped and ProofError
    come as ``train`` raises them.
    """
    start = _resumed(run.output, record) if run.resume else _begun(run.output, begin)
    tuned = dataclasses.replace(run, arch=start.arch, start=start)
    trained = load_checkpoint(train(tuned, on_epoch=on_epoch, on_step=lambda step, total: None))
    return dataclasses.replace(trained, recipe=trained.recipe | start.recipe)


def _begun(folder: Path, begin: Callable[[], Checkpoint]) -> Checkpoint:
    if (folder / STATE_FILE).exists():  # before the start of the run that lies there is overwritten
        raise InputError(f"{folder}: already holds a run; add --resume to continue it, or choose another --output")
    start = begin()
    save_checkpoint(start, folder / START)
    return start


def _resumed(folder: Path, record: dict[str, Any]) -> Checkpoint:
    if not (folder / START).is_file():
        raise InputError(f"{folder}: holds no run to resume; leave --resume out to start one")
    start = load_checkpoint(folder / START)
    had = start.recipe.get("compressed", {})
    for key, value in record.items():
        if had.get(key) != value:
            raise InputError(
                f"{folder}: this run had {key} {had.get(key)}, now it is {value}; "
                "use the same flags and checkpoint, or another --output"
            )
    return start
