"""Fine-tuning of a checkpoint that was changed: a run of the training loop that begins with its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.loop.fit import fit
from training.loop.run import EpochMetrics, Run
from training.loop.state import check_no_run, no_run

START = "start.safetensors"
"""What the run began with: a resumed run must not depend on a second decomposition, whose last bits may differ."""


def fine_tune(
    run: Run,
    make_start: Callable[[], Checkpoint],
    record: dict[str, Any],
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda row: None,
    on_progress: Progress = no_progress,
) -> Checkpoint:
    """Train the checkpoint of ``make_start``: its architecture and weights replace those of ``run``.

    The recipe of the result joins that of the run and that of the start. With ``run.resume`` the start is read from the
    run's folder instead: InputError where its recipe does not hold ``record`` under ``compressed``. Raises what ``fit``
    does.
    """
    start = _resume(run.output, record) if run.resume else _begin(run.output, make_start)
    tuned = dataclasses.replace(run, arch=start.arch, start=start)
    trained = load_checkpoint(fit(tuned, on_epoch=on_epoch, on_progress=on_progress))
    return dataclasses.replace(trained, recipe=trained.recipe | start.recipe)


def _begin(folder: Path, make_start: Callable[[], Checkpoint]) -> Checkpoint:
    check_no_run(folder)  # before its start is overwritten
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
