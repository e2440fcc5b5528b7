"""The training loop: one code path for one process and for many (DistributedDataParallel)."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet_deploy.model.architecture import PixelClassifier
from training.augment import measure_colours
from training.data import Batch, StepSampler, TrainingCrops, plain_batches, training_batches
from training.device import keep_freed_memory, pick_device
from training.pixel_cache import cache_pixels
from training.record import CHECKPOINT, Record
from training.run import EpochRow, Run, as_json
from training.state import STATE_FILE, Progress, check_folder, load_state, save_state
from training.step import Trainer, autocast
from training.watch import WINDOW, Watch

STOPPED = 130
"""Exit code after ``Stopped``."""


class Stopped(Exception):
    """SIGINT or SIGTERM came; the state is saved and --resume goes on from it."""


def train(run: Run, *, on_epoch: Callable[[EpochRow], None], on_step: Callable[[int, int], None]) -> Path:
    """Train and return ``run.output/checkpoint.safetensors`` (float32, averaged weights where the recipe averages).

    That is written after every validation, ``state.safetensors`` every epoch, every ``run.save_minutes`` and on
    SIGINT/SIGTERM (then Stopped is raised, in all processes after the same step); with ``run.resume`` it goes on from
    there to the weights an undisturbed run of as many processes reaches, bit by bit on a CPU. Raises ProofError where
    the run has diverged, with the last good state on disk.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = pick_device(rank)
    if device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(run, device, rank)
    colours = measure_colours(run.train.files, run.seed) if run.recipe.pca_sigma else None
    config = run.config() | {"colours": as_json(dataclasses.asdict(colours)) if colours else None}
    progress = _begin(run, config, trainer)
    sampler = StepSampler(len(run.train.files), run.recipe.batch, run.seed, progress.step, rank, world)
    cache = cache_pixels(run.train.files, run.output, threads=run.workers) if run.cache else None
    crops = TrainingCrops(run.train, run.preprocessing, run.recipe, run.seed, colours, cache)
    batches = training_batches(crops, sampler, run.workers)
    watch, last_step = Watch(run, sampler.steps_per_epoch), run.recipe.epochs * sampler.steps_per_epoch
    with _stop_signal() as stop, closing(Record(run, config) if rank == 0 else _Nothing()) as record:
        loop = _Loop(run, trainer, progress, sampler, watch, stop, on_step)
        if progress.rows and isinstance(record, Record):
            record.epochs(progress.rows)  # a kill may have come between the state and its record
            if progress.step == last_step and not (run.output / CHECKPOINT).is_file():
                record.checkpoint(trainer.final, progress.rows[-1])
        while progress.step < last_step:
            row = loop.shared(loop.validated(loop.epoch(batches)))
            progress.rows.append(row)
            watch.rows(progress.rows)
            if isinstance(record, Record):
                if row.val_top1_percent is not None:
                    # Before the state: with the last state on disk, a resumed run has nothing left to do.
                    record.checkpoint(trainer.final, row)
                loop.save()
                record.epochs(progress.rows)
                on_epoch(row)
    return run.output / CHECKPOINT


def _begin(run: Run, config: dict[str, object], trainer: Trainer) -> Progress:
    if run.resume:
        return load_state(run.output / STATE_FILE, config, trainer)
    check_folder(run)
    return Progress(0, config)


class _Loop:
    """What happens within an epoch, and to its row."""

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        progress: Progress,
        sampler: StepSampler,
        watch: Watch,
        stop: _Stop,
        on_step: Callable[[int, int], None],
    ) -> None:
        self.run, self.trainer, self.progress, self.sampler = run, trainer, progress, sampler
        self.watch, self.stop, self.on_step = watch, stop, on_step
        self._saved = time.monotonic()
        self._recent: deque[Tensor] = deque(maxlen=WINDOW)

    def epoch(self, batches: Iterator[Batch]) -> EpochRow:
        """Train to the end of the epoch that ``progress`` stands in."""
        run, progress, per_epoch = self.run, self.progress, self.sampler.steps_per_epoch
        epoch = progress.step // per_epoch
        started, first, waited, losses, lr = time.perf_counter(), progress.step, 0.0, [], 0.0
        self.trainer.classifier.train()
        while progress.step < (epoch + 1) * per_epoch:
            self._save_when_asked()
            lr = run.recipe.lr_at(progress.step / per_epoch, progress.val_errors)
            asked = time.perf_counter()
            pixels_NHWC, targets_N = next(batches)
            waited += time.perf_counter() - asked
            losses.append(self.trainer.step(progress.step, lr, pixels_NHWC, targets_N))
            self._recent.append(losses[-1])
            progress.step += 1
            if progress.step % WINDOW == 0:
                self._look()
            self.on_step(progress.step, run.recipe.epochs * per_epoch)
        mean = torch.stack(losses).mean()
        if self.sampler.world > 1:
            dist.all_reduce(mean)  # each process has seen its own images alone
        mean_loss = mean.item() / self.sampler.world  # waits for the GPU, so the time stops after it
        seconds = time.perf_counter() - started
        self.watch.finite(epoch + 1, mean_loss)  # here all processes know it at once
        images = (progress.step - first) * run.recipe.batch
        return EpochRow(epoch + 1, lr, mean_loss, None, None, images / seconds, 100 * waited / seconds)

    def validated(self, row: EpochRow) -> EpochRow:
        """``row`` with what validation finds, in the first process and where it is time for it."""
        if self.sampler.rank > 0 or (row.epoch % self.run.val_every and row.epoch != self.run.recipe.epochs):
            return row
        val_loss, top1_percent = validate(self.trainer.final, self.run, self.trainer.device)
        self.watch.finite(row.epoch, val_loss)
        return dataclasses.replace(row, val_loss=val_loss, val_top1_percent=top1_percent)

    def shared(self, row: EpochRow) -> EpochRow:
        """``row`` with the accuracy that the first process found: the others' schedules depend on it, too."""
        if self.sampler.world == 1:
            return row
        found = math.nan if row.val_top1_percent is None else row.val_top1_percent
        told = torch.tensor(found, dtype=torch.float64, device=self.trainer.device)
        dist.broadcast(told, 0)  # the others wait here until it is measured
        return dataclasses.replace(row, val_top1_percent=None if told.isnan() else told.item())

    def save(self) -> None:
        """Write the state; only the first process does. ProofError where it is not worth going on from."""
        if self.sampler.rank == 0:
            self._look()
            save_state(self.run.output / STATE_FILE, self.progress, self.trainer)
        self._saved = time.monotonic()

    def _look(self) -> None:
        """Show the watch the losses since the last look, at least: reading them makes the host wait for a GPU."""
        if self._recent:
            self.watch.losses(self.progress.step, torch.stack(list(self._recent)).tolist())

    def _save_when_asked(self) -> None:
        if self._asked_to_stop():
            self.save()
            if self.sampler.world > 1:
                dist.all_reduce(torch.zeros(1))  # nobody leaves before it is saved: torchrun ends the others then
            raise Stopped(f"{self.run.output}: stopped at step {self.progress.step}, saved; go on with --resume")
        if time.monotonic() - self._saved > 60 * self.run.save_minutes:
            self.save()

    def _asked_to_stop(self) -> bool:
        """Whether any process was: all leave after the same step, or one would wait for gradients of another."""
        if self.sampler.world == 1:
            return self.stop.asked
        asked = torch.tensor(int(self.stop.asked))  # on the CPU: no wait for a GPU
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)


@torch.inference_mode()
def validate(model: nn.Module, run: Run, device: torch.device) -> tuple[float, float]:
    """Mean cross-entropy and top-1 in percent on ``run.val``, preprocessed as inference does."""
    classifier = PixelClassifier(model, run.preprocessing.mean, run.preprocessing.std).to(device).eval()
    loss = correct = 0.0
    for pixels_NHWC, targets_N in plain_batches(run.val, run.preprocessing, batch=64, workers=run.workers):
        with autocast(run.precision, device):
            logits_NK: Tensor = classifier(pixels_NHWC.to(device)).float().cpu()
        loss += nn.functional.cross_entropy(logits_NK, targets_N, reduction="sum").item()
        correct += (logits_NK.argmax(1) == targets_N).sum().item()
    count = len(run.val.files)
    return loss / count, 100 * correct / count


class _Nothing:
    """The record of a process that keeps none."""

    def close(self) -> None: ...


class _Stop:
    """Remembers that SIGINT or SIGTERM came, so that the loop can finish its step and save."""

    asked = False

    def note(self, number: int, frame: object) -> None:
        self.asked = True


@contextmanager
def _stop_signal() -> Iterator[_Stop]:
    stop = _Stop()
    previous = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
