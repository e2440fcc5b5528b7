"""The training loop: one code path for one process and for many (DistributedDataParallel)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.progress import Progress, no_progress
from training.data.augment import Colours, measure_colours
from training.data.loader import Batch, ResumableBatchSampler, TrainingCrops, eval_batches, training_batches
from training.data.pixel_cache import cache_pixels
from training.data.prefetch import on_device
from training.loop.best import best_epoch, stops_early
from training.loop.device import keep_freed_memory, pick_device
from training.loop.divergence import WINDOW, DivergenceCheck
from training.loop.lock import only_run
from training.loop.record.writer import RunWriter
from training.loop.run import EpochMetrics, OnEpoch, Run, as_json, no_epochs
from training.loop.state import RunState, check_run_folder, load_state, no_run, save_state
from training.loop.step import Trainer, autocast
from training.loop.stop import Interrupted, Stop, stop_signals
from training.run_files import CHECKPOINT, STATE_FILE


def fit(run: Run, *, held: bool = False, on_epoch: OnEpoch = no_epochs, on_progress: Progress = no_progress) -> Path:
    """Train and return ``run.output/checkpoint.safetensors`` (float32, averaged weights if the recipe averages).

    The checkpoint is written after every validation, with ``run.early_stop`` only after the best so far;
    ``state.safetensors`` after every epoch, every ``run.save_every_s`` seconds and on SIGINT or SIGTERM. Interrupted is
    then raised, in all processes after the same step; after the last one as well, as the caller may have more to do.
    With ``run.resume`` training goes on from there to the weights that an undisturbed run of as many processes
    reaches, bit by bit on a CPU. Raises ProofError where the run diverges, with the last good state on disk,
    InputError where the checkpoint that a resumed run needs is gone, and UnavailableError where another process trains
    into ``run.output``, unless the caller ``held`` the lock on it (``lock.only_run``).
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if run.resume and not run.output.is_dir():
        raise no_run(run.output)
    run.output.mkdir(parents=True, exist_ok=True)
    with only_run(run.output, held=held), stop_signals(run.output) as stop:
        return _fit(run, rank, world, stop, on_epoch=on_epoch, on_progress=on_progress)


def _fit(run: Run, rank: int, world: int, stop: Stop, *, on_epoch: OnEpoch, on_progress: Progress) -> Path:
    device = pick_device(rank)
    if device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(run, device, rank)
    colours = measure_colours(run.train.files, run.seed) if run.recipe.pca_sigma else None
    config = run.config() | {"colours": as_json(dataclasses.asdict(colours)) if colours else None}
    state = _begin(run, config, trainer)
    balanced = run.train.targets if run.recipe.balance == "sampler" else None
    sampler = ResumableBatchSampler(
        len(run.train.files), run.recipe.batch, run.seed, state.step, rank, world,
        repeats=run.recipe.repeats, balanced=balanced,
    )  # fmt: skip
    trainer.open_teachers(on_progress)  # after the sampler, which refuses a batch that cannot be
    batches = on_device(open_batches(run, sampler, colours), device)
    check, last_step = DivergenceCheck(run, sampler.steps_per_epoch), run.recipe.epochs * sampler.steps_per_epoch
    # Only the first process writes.
    with stop.held(), closing(RunWriter(run, config)) if rank == 0 else nullcontext() as writer:
        loop = _Loop(run, trainer, state, sampler, check, stop, on_progress)
        if state.rows and writer:
            writer.write_epochs(state.rows)  # a kill may have happened between the state and its record
            _restore_checkpoint(run, state, writer, trainer, last_step)
        while state.step < last_step and not stops_early(state.rows, run):
            row = loop.share(loop.validate(loop.train_epoch(batches)))
            state.rows.append(row)
            check.check_epochs(state.rows)
            if writer:
                if row.val_top1_percent is not None and (not run.early_stop or best_epoch(state.rows, run) is row):
                    # Before the state: with the last state on disk, a resumed run has nothing left to do.
                    writer.write_checkpoint(trainer.final, row)
                loop.save()
                writer.write_epochs(state.rows)
                on_epoch(row, run.recipe.epochs)
        if loop.asked_to_stop():
            raise Interrupted(f"{run.output}: stopped after its last epoch, saved; continue with `resume`")
    return run.output / CHECKPOINT


def _restore_checkpoint(run: Run, state: RunState, writer: RunWriter, trainer: Trainer, last_step: int) -> None:
    """Put the checkpoint of the epochs so far in place; only the weights of the last one can be written again."""
    writer.bring_back()
    best = best_epoch(state.rows, run)
    if best is None or (run.output / CHECKPOINT).is_file():
        return
    if run.early_stop and best is not state.rows[-1]:
        raise InputError(
            f"{run.output}: {CHECKPOINT} is gone, and with it the best epoch so far ({best.epoch}); choose another "
            "`output`"
        )
    if state.step == last_step or stops_early(state.rows, run):
        writer.write_checkpoint(trainer.final, state.rows[-1])


def open_batches(run: Run, sampler: ResumableBatchSampler, colours: Colours | None) -> Iterator[Batch]:
    """The training batches of ``run``, without end; with ``run.cache`` every picture is decoded here and now."""
    cache = cache_pixels(run.train.files, run.output, threads=run.workers) if run.cache else None
    images = run.train if run.distillation is None else run.distillation.training_list(run.train)
    crops = TrainingCrops(images, run.crop_preprocessing, run.recipe, run.seed, colours, cache)
    return training_batches(crops, sampler, run.workers)


def _begin(run: Run, config: dict[str, object], trainer: Trainer) -> RunState:
    if run.resume:
        return load_state(run.output / STATE_FILE, config, trainer)
    check_run_folder(run)
    return RunState(0, config)


@dataclass
class _Loop:
    """The parts of one epoch."""

    run: Run
    trainer: Trainer
    state: RunState
    sampler: ResumableBatchSampler
    check: DivergenceCheck
    stop: Stop
    on_progress: Progress
    saved: float = field(default_factory=time.monotonic)
    """When the state was written last."""
    recent: deque[Tensor] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """The last losses, on the device."""

    def train_epoch(self, batches: Iterator[Batch]) -> EpochMetrics:
        """Train to the end of the epoch that ``state`` is in."""
        run, state, per_epoch = self.run, self.state, self.sampler.steps_per_epoch
        epoch = state.step // per_epoch
        started, first, waited, losses, lr = time.perf_counter(), state.step, 0.0, [], 0.0
        self.trainer.classifier.train()
        self.trainer.begin_epoch(epoch)
        while state.step < (epoch + 1) * per_epoch:
            self._save_when_due()
            lr = run.recipe.lr_at(state.step / per_epoch, state.val_errors)
            asked = time.perf_counter()
            pixels_NHWC, targets_N = next(batches)
            waited += time.perf_counter() - asked
            losses.append(self.trainer.step(state.step, lr, pixels_NHWC, targets_N))
            self.recent.append(losses[-1])
            state.step += 1
            if state.step % WINDOW == 0:
                self._check_recent()
            self.on_progress("training", state.step, run.recipe.epochs * per_epoch)
        mean = torch.stack(losses).mean()
        if self.sampler.world > 1:
            dist.all_reduce(mean)  # each process has seen only its own images
        mean_loss = mean.item() / self.sampler.world  # waits for the GPU, so the time is taken after it
        seconds = time.perf_counter() - started
        self.check.check_finite(epoch + 1, mean_loss)  # here all processes know the loss at the same time
        images = (state.step - first) * run.recipe.batch
        return EpochMetrics(epoch + 1, lr, mean_loss, None, None, images / seconds, 100 * waited / seconds)

    def validate(self, row: EpochMetrics) -> EpochMetrics:
        """``row`` with the validation results, in the first process and in epochs with a validation."""
        if self.sampler.rank > 0 or (row.epoch % self.run.val_every and row.epoch != self.run.recipe.epochs):
            return row
        found = validate(self.trainer.final, self.run, self.trainer.device)
        self.check.check_finite(row.epoch, found.loss)
        return dataclasses.replace(
            row,
            val_loss=found.loss,
            val_top1_percent=found.top1_percent,
            val_class_mean_percent=found.class_mean_percent,
        )

    def share(self, row: EpochMetrics) -> EpochMetrics:
        """``row`` with the validation of the first process: schedule and end of the others depend on it."""
        if self.sampler.world == 1:
            return row
        measured = (row.val_loss, row.val_top1_percent, row.val_class_mean_percent)
        found = [math.nan if value is None else value for value in measured]
        shared = torch.tensor(found, dtype=torch.float64, device=self.trainer.device)
        dist.broadcast(shared, 0)  # the others wait here until it is measured
        loss, top1, class_mean = (None if math.isnan(value) else value for value in shared.tolist())
        return dataclasses.replace(row, val_loss=loss, val_top1_percent=top1, val_class_mean_percent=class_mean)

    def save(self) -> None:
        """Write the state, in the first process. ProofError if the run has diverged."""
        if self.sampler.rank == 0:
            self._check_recent()
            save_state(self.run.output / STATE_FILE, self.state, self.trainer)
        self.saved = time.monotonic()

    def _check_recent(self) -> None:
        """Check the last losses. Not in every step: reading them makes the host wait for a GPU."""
        if self.recent:
            self.check.check_losses(self.state.step, torch.stack(list(self.recent)).tolist())

    def _save_when_due(self) -> None:
        if self.asked_to_stop():
            self.save()
            if self.sampler.world > 1:
                dist.all_reduce(torch.zeros(1))  # torchrun ends the others when one leaves, so wait for the save
            raise Interrupted(f"{self.run.output}: stopped at step {self.state.step}, saved; continue with `resume`")
        if time.monotonic() - self.saved > self.run.save_every_s:
            self.save()

    def asked_to_stop(self) -> bool:
        """Whether any process was stopped: all leave after the same step, or one would wait for others' gradients."""
        if self.sampler.world == 1:
            return self.stop.asked
        asked = torch.tensor(int(self.stop.asked))  # on the CPU: no wait for a GPU
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)


@dataclass(frozen=True, slots=True)
class Validation:
    """Mean cross-entropy, top-1, and the mean over the classes of the share of each that is right."""

    loss: float
    top1_percent: float
    class_mean_percent: float


@torch.inference_mode()
def validate(model: nn.Module, run: Run, device: torch.device) -> Validation:
    """Measure ``model`` on ``run.val``, preprocessed as inference does."""
    classifier = PixelClassifier(model, run.preprocessing.mean, run.preprocessing.std).to(device).eval()
    loss, right, count = 0.0, torch.zeros(run.arch.num_classes), torch.zeros(run.arch.num_classes)
    batches = eval_batches(run.val, run.preprocessing, batch=64, workers=run.workers)
    for pixels_NHWC, targets_N in on_device(batches, device):
        with autocast(run.precision, device):
            logits_NK: Tensor = classifier(pixels_NHWC).float().cpu()
        loss += nn.functional.cross_entropy(logits_NK, targets_N, reduction="sum").item()
        right += targets_N[logits_NK.argmax(1) == targets_N].bincount(minlength=len(right))
        count += targets_N.bincount(minlength=len(count))
    images, present = len(run.val.files), count > 0
    class_mean = (right[present].double() / count[present]).mean().item()
    return Validation(loss / images, 100 * right.sum().item() / images, 100 * class_mean)
