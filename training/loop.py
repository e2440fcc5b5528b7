"""The training loop: one code path for one process and for many (DistributedDataParallel)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from alexnet_deploy.checkpoint import Checkpoint, save_checkpoint
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, ProofError
from alexnet_deploy.models import AlexNet, Architecture, PixelClassifier, initialise
from training.augment import measure_colours
from training.data import Listing, StepSampler, TrainingCrops, plain_batches, training_batches
from training.recipes import Recipe
from training.state import STATE_FILE, Progress, load_state, save_state


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: what, on which data, where to."""

    arch: Architecture
    recipe: Recipe
    train: Listing
    val: Listing
    data_digest: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    output: Path
    seed: int = 0
    workers: int = 2
    resume: bool = False

    def config(self) -> dict[str, Any]:
        """What decides the weights bit by bit on one machine; a resumed run must have the same."""
        decides = {
            "arch": self.arch.to_dict(),
            "recipe": self.recipe.to_dict(),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "seed": self.seed,
            "data": self.data_digest,
        }
        return _plain(decides)


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of metrics.jsonl; after a resume ``train_loss`` and the speeds are of the rest of that epoch.

    ``val_top1_percent`` is of the averaged weights where the recipe averages.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_top1_percent: float
    images_per_s: float
    data_wait_percent: float


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: a tuple is a list."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


class Stopped(Exception):
    """SIGINT or SIGTERM came; the state is saved and --resume goes on from it."""


def train(run: Run, *, on_epoch: Callable[[EpochRow], None], on_step: Callable[[int, int], None]) -> Path:
    """Train and return ``run.output/checkpoint.safetensors`` (float32, averaged weights where the recipe averages).

    ``state.safetensors`` is written every epoch and on SIGINT/SIGTERM (then Stopped is raised); with
    ``run.resume`` it goes on from there to the weights an undisturbed run of as many processes reaches, bit by bit on
    a CPU.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = _device(rank)
    recipe = run.recipe
    torch.manual_seed(run.seed)
    model = AlexNet(run.arch)
    initialise(model, recipe.init)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub forgets it
    classifier = PixelClassifier(model, run.preprocessing.mean, run.preprocessing.std).to(device)
    ema = None
    if recipe.ema_decay is not None:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))  # type: ignore[no-untyped-call]
    optimizer = _optimizer(model, recipe)
    colours = measure_colours(run.train.files, run.seed) if recipe.pca_sigma else None
    config = run.config() | {"colours": _plain(dataclasses.asdict(colours)) if colours else None}
    progress = Progress(0, config)
    state_path = run.output / STATE_FILE
    if run.resume:
        progress = load_state(state_path, config, model, ema, optimizer)
    elif state_path.exists():
        raise InputError(f"{run.output}: already holds a run; add --resume to continue it, or choose another --output")

    network: nn.Module = DistributedDataParallel(classifier) if world > 1 else classifier
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    sampler = StepSampler(len(run.train.files), recipe.batch, run.seed, progress.step, rank, world)
    per_epoch = sampler.steps_per_epoch
    crops = TrainingCrops(run.train, run.preprocessing, recipe, run.seed, colours)
    batches = training_batches(crops, sampler, run.workers)
    stop = _StopSignal()
    try:
        for epoch in range(progress.step // per_epoch, recipe.epochs):
            started, waited, losses = time.perf_counter(), 0.0, []
            first = progress.step
            classifier.train()
            while progress.step < (epoch + 1) * per_epoch:
                if stop.asked:
                    if rank == 0:
                        save_state(state_path, progress, model, ema, optimizer)
                    raise Stopped(f"{run.output}: stopped at step {progress.step}, saved; go on with --resume")
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr_at(progress.step / per_epoch, progress.val_errors)
                asked = time.perf_counter()
                pixels_NHWC, targets_N = next(batches)
                waited += time.perf_counter() - asked
                batch = pixels_NHWC.to(device), targets_N.to(device)
                # Dropout's draw depends on the step alone, so a resumed run repeats an undisturbed one. Not earlier:
                # a loader that starts its workers draws a number, too.
                torch.manual_seed(_mixed(run.seed, progress.step, rank))
                losses.append(_step(network, optimizer, loss_of, *batch, recipe.clip_norm))
                if ema is not None:
                    ema.update_parameters(model)
                progress.step += 1
                on_step(progress.step, recipe.epochs * per_epoch)
            mean = torch.stack(losses).mean()
            if world > 1:
                dist.all_reduce(mean)  # each process has seen its own images alone
            mean_loss = _finite(mean.item() / world, run, epoch)  # waits for the GPU, so the time stops after it
            seconds = time.perf_counter() - started
            val_error = 0.0
            if rank == 0:
                final = ema.module if ema is not None else model
                val_loss, top1 = validate(final, run, device)
                _finite(val_loss, run, epoch)
                val_error = 100 - top1
                progress.val_errors.append(val_error)
                images = (progress.step - first) * recipe.batch
                lr = optimizer.param_groups[0]["lr"]
                row = EpochRow(epoch + 1, lr, mean_loss, val_loss, top1, images / seconds, 100 * waited / seconds)
                if epoch + 1 == recipe.epochs:
                    # Before the state: with the last state on disk, a resumed run has nothing left to do.
                    save_checkpoint(_checkpoint(run, config, final, row), run.output / "checkpoint.safetensors")
                save_state(state_path, progress, model, ema, optimizer)
                _append(run.output / "metrics.jsonl", row)
                on_epoch(row)
            if world > 1:
                told = torch.tensor(
                    val_error, dtype=torch.float64, device=device
                )  # the others wait here until it is measured
                dist.broadcast(told, 0)
                if rank > 0:
                    progress.val_errors.append(told.item())
    finally:
        stop.restore()
    return run.output / "checkpoint.safetensors"


def _finite(loss: float, run: Run, epoch: int) -> float:
    """Nothing of an epoch that went wrong is saved, so a resumed run goes on from the last good one."""
    if not math.isfinite(loss):
        raise ProofError(f"{run.output}: the loss became {loss} in epoch {epoch + 1}; lower --lr")
    return loss


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers, of which any may be large."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: nn.Module,
    pixels_NHWC: Tensor,
    targets_N: Tensor,
    clip: float | None,
) -> Tensor:
    with torch.autocast(pixels_NHWC.device.type, torch.bfloat16):
        logits_NK = network(pixels_NHWC)
    loss: Tensor = loss_of(logits_NK.float(), targets_N)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    return loss.detach()


@torch.inference_mode()
def validate(model: nn.Module, run: Run, device: torch.device) -> tuple[float, float]:
    """Mean cross-entropy and top-1 in percent on ``run.val``, preprocessed as inference does."""
    classifier = PixelClassifier(model, run.preprocessing.mean, run.preprocessing.std).to(device).eval()
    loss = correct = 0.0
    for pixels_NHWC, targets_N in plain_batches(run.val, run.preprocessing, batch=64, workers=run.workers):
        with torch.autocast(device.type, torch.bfloat16):
            logits_NK = classifier(pixels_NHWC.to(device)).float().cpu()
        loss += nn.functional.cross_entropy(logits_NK, targets_N, reduction="sum").item()
        correct += (logits_NK.argmax(1) == targets_N).sum().item()
    count = len(run.val.files)
    return loss / count, 100 * correct / count


def _checkpoint(run: Run, config: dict[str, Any], model: nn.Module, row: EpochRow) -> Checkpoint:
    contract = ModelContract(run.arch.name, run.labels, run.train.class_ids, run.preprocessing)
    recipe = config | {"result": dataclasses.asdict(row), "torch": torch.__version__}
    return Checkpoint(run.arch, contract, {k: v.cpu() for k, v in model.state_dict().items()}, recipe)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]  # a bias has no scale to keep small
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)


def _device(rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _append(path: Path, row: EpochRow) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(dataclasses.asdict(row)) + "\n")


class _StopSignal:
    """Remembers that SIGINT or SIGTERM came, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.asked = False
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: object) -> None:
        self.asked = True

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
