"""From a folder of labelled images to a run directory with a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from alexnet_deploy.errors import DeployError, ProofError
from alexnet_deploy.files.lock import only_writer
from alexnet_deploy.progress import Progress, no_progress
from training.data.preflight import PreflightReport, inspect_data
from training.epochs import Epochs
from training.loop.divergence import StillAtChance
from training.loop.fit import fit
from training.loop.lock import make_writable
from training.loop.record.writer import set_aside
from training.loop.run import OnEpoch, Run, no_epochs
from training.loop.state import check_run_folder
from training.loop.stop import Interrupted
from training.plan import TrainSettings, asked_recipe, fitted_recipe, plan_run, run_notes
from training.processes import is_distributed, leads
from training.report.files import write_report
from training.report.images import DataSettings
from training.results.outcome import AtChance, Outcome, chance_error, judge, read_outcome
from training.run_files import CHECKPOINT
from training.start.begin import StartReport, no_report
from training.test_scale import check_last_epochs, end_at_test_scale

PREFLIGHT_FILE = "preflight.txt"
PROCESS_TIMEOUT = timedelta(days=1)
"""Time that processes wait for each other while the first one reads every file: torch's own 30 minutes are too short
for ImageNet's 1.28 million. If one dies, torchrun ends the others, so none waits in vain."""


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
    names = (field.name for field in dataclasses.fields(DataSettings) if field.name != "data")
    images = DataSettings(data, **{name: getattr(settings, name) for name in names})
    run = plan_run(data, output, settings, on_start=on_start if leads() else no_report, on_progress=on_progress)
    return train_run(
        run, settings, images=images, on_note=on_note, on_preflight=on_preflight, on_epoch=on_epoch,
        on_progress=on_progress, on_outcome=on_outcome,
    )  # fmt: skip


def train_run(
    run: Run,
    settings: TrainSettings,
    *,
    images: DataSettings | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    on_preflight: Callable[[PreflightReport], None] = lambda report: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Path:
    """Inspect the data of a planned run and ``train_and_judge`` it: ``train`` from its second step on.

    ``images`` are kept in the run directory, for its report.
    """
    output = run.output
    count = len(run.train.files)
    make_writable(output)
    usable = torch.ones(len(run.train.files) + len(run.val.files), dtype=torch.uint8)
    with ExitStack() as resources:
        if leads():
            # Before the processes meet: on an error torchrun ends the others, and none waits in vain.
            # Without the files that cannot be read, the data is another, and a recipe for little data may be.
            fitted = fitted_recipe(settings, count) != asked_recipe(settings)
            unknown = ("data", "recipe") if fitted else ("data",)
            check_run_folder(run, unknown=unknown if settings.allow_unreadable else ())
            check_last_epochs(run, settings)
            report = None
            if not settings.skip_preflight:
                report = inspect_data(run.train, run.val, threads=max(1, run.workers), on_progress=on_progress)
                usable = torch.from_numpy(report.readable.astype(np.uint8))
            known = _readable_part(run, settings, usable.bool().numpy()) if settings.allow_unreadable else run
            resources.enter_context(only_writer(output, "output"))  # until the end: what is written now is of this run
            check_run_folder(known)  # another run may have begun while every file was read
            if report is not None:
                report.write(output / PREFLIGHT_FILE)
                on_preflight(report)
                report.check(settings.allowed())
            if images is not None:
                images.write(output)
        if is_distributed():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PROCESS_TIMEOUT)
            dist.broadcast(usable, 0)
        run = _readable_part(run, settings, usable.bool().numpy())
        if leads():
            for text in run_notes(run, settings):
                on_note(text)
        return train_and_judge(
            run, settings, held=True, on_note=on_note, on_epoch=on_epoch, on_progress=on_progress, on_outcome=on_outcome
        )


def _readable_part(run: Run, settings: TrainSettings, readable_N: NDArray[np.bool_]) -> Run:
    """``run`` on the files that can be read, training files first, with the recipe for so many."""
    count = len(run.train.files)
    whole = bool(readable_N[:count].all())
    run = dataclasses.replace(run, train=run.train.where(readable_N[:count]), val=run.val.where(readable_N[count:]))
    if whole or settings.is_only_test_scale:
        return run
    recipe = fitted_recipe(settings, len(run.train.files))
    return dataclasses.replace(run, recipe=dataclasses.replace(recipe, pixel_std=run.recipe.pixel_std))


def train_and_judge(
    run: Run,
    settings: TrainSettings,
    *,
    held: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
    on_epoch: OnEpoch = no_epochs,
    on_progress: Progress = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Path:
    """Train a run whose data has been inspected, and compare the result with chance: ProofError if it is no better.

    The checkpoint then has the name ``AT_CHANCE``, so nobody takes it for a result. ``held`` as for ``fit``.
    """
    output = run.output
    try:
        checkpoint = fit(run, held=held, on_epoch=on_epoch, on_progress=on_progress)
        if settings.test_scale_epochs and not settings.is_only_test_scale:
            checkpoint = end_at_test_scale(run, settings, held=held, on_epoch=on_epoch, on_progress=on_progress)
    except ProofError as exc:
        # An epoch before may have been good: only what is at chance loses its name.
        if leads() and (output / CHECKPOINT).is_file() and read_outcome(run).verdict == "chance":
            set_aside(output / CHECKPOINT)
        if isinstance(exc, StillAtChance):
            raise AtChance(str(exc), judge(run, exc.row, Epochs())) from exc
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
    """Write the report of a finished run; a note instead of an error if it cannot be written: the weights are whole.

    Interrupted, which says so, on a signal.
    """
    later = "write it later: python -m training report"
    try:
        write_report(run.output, run.train, run.val, workers=run.workers, on_progress=on_progress)
    except DeployError as exc:
        on_note(f"no report of the run: {exc}; {later}")
    except KeyboardInterrupt as exc:
        model = run.output / CHECKPOINT
        raise Interrupted(f"{model}: is finished, its report was stopped; {later} {run.output}") from exc
