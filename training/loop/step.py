"""One optimizer step, the same for one process and for many: autocast, loss, clipping, averaging."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from alexnet_deploy.errors import UnavailableError, UsageError, one_line
from alexnet_deploy.model.architecture import AlexNet, PixelClassifier, initialise
from alexnet_deploy.progress import Progress, no_progress
from training.data.augment import cutmix
from training.distil.teacher import Teaching
from training.loop.device import without_tf32
from training.loop.freezing import hold, parameter_groups
from training.loop.loss import LabelLoss
from training.loop.run import Run
from training.loop.standardise import standardise_convolutions
from training.recipes.recipe import Recipe, TrainingPrecision

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Trainer:
    """The model of a run and everything else that a step changes: the averaged weights, optimizer, loss scale."""

    def __init__(self, run: Run, device: torch.device, rank: int) -> None:
        check_precision(run.precision, device)
        self.run, self.device, self.rank = run, device, rank
        recipe = run.recipe
        torch.manual_seed(run.seed)
        self.model = AlexNet(run.arch)
        initialise(self.model, recipe.init)
        if run.start is not None:
            self.model.load_state_dict({name: value.float() for name, value in run.start.weights.items()})
        if recipe.standardise:
            standardise_convolutions(self.model, keep=run.start is not None)
        hold(self.model, recipe, 0)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.classifier = PixelClassifier(self.model, run.preprocessing.mean, run.preprocessing.std).to(device)
        self.ema = None
        decay = recipe.average_decay(len(run.train.files))
        if decay is not None:
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.model, multi_avg_fn=average)
        self.optimizer = _optimizer(self.model, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
        if run.compile:
            self.classifier.compile()
        self.network: nn.Module = self.classifier
        if dist.is_initialized():
            self.network = DistributedDataParallel(self.classifier)
        self._loss_of = LabelLoss(run).to(device)
        self._teaching: Teaching | None = None

    @property
    def final(self) -> nn.Module:
        """The model to validate and ship: the averaged one if the recipe averages."""
        return self.model if self.ema is None else self.ema.module

    def begin_epoch(self, epoch: int) -> None:
        """Let the layers learn that learn in ``epoch`` (from 0)."""
        if hold(self.model, self.run.recipe, epoch) and dist.is_initialized():
            # It reduces the gradients of those parameters alone that learned when it was made.
            self.network = self.classifier
            self.network = DistributedDataParallel(self.classifier)

    def open_teachers(self, on_progress: Progress = no_progress) -> None:
        """Load the teachers of the run, if it has any; of a fixed view, compute their answers or read them again."""
        run = self.run
        if run.distillation is None:
            return
        shared = run.distillation.is_fixed and dist.is_initialized()
        if shared and self.rank > 0:
            dist.barrier()  # the first process writes what the others read
        with without_tf32():
            self._teaching = Teaching(
                run.distillation, run.train, self.device, workers=run.workers, on_progress=on_progress
            )
        if shared and self.rank == 0:
            dist.barrier()

    def step(self, step: int, lr: float, pixels_NHWC: Tensor, targets_N: Tensor) -> Tensor:
        """Learn from one batch; return the loss by the labels, on the device.

        Random numbers depend on seed, step and rank. A teacher's part is not in the returned loss, so it compares with
        that of other runs and with a blind guess. ``targets_N`` are what ``open_batches`` gives.
        """
        recipe, teaching = self.run.recipe, self._teaching
        listed_N = targets_N
        if teaching is not None:
            targets_N = teaching.labels(listed_N)
        # Not earlier, because a loader draws a number when it starts its workers.
        torch.manual_seed(seed_from(self.run.seed, step, self.rank))
        targets = targets_N
        if recipe.mix == "cutmix":
            rng = np.random.default_rng((self.run.seed, step, self.rank))
            if rng.random() < 0.5:
                pixels_NHWC, targets = cutmix(pixels_NHWC, targets_N, self.run.arch.num_classes, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        pixels_NHWC, targets = pixels_NHWC.to(self.device), targets.to(self.device)
        with autocast(self.run.precision, self.device), _compile_errors(self.run.compile):
            teacher_NK = None if teaching is None else teaching.probabilities(pixels_NHWC, listed_N)
            logits_NK = self.network(pixels_NHWC)
        labels_loss: Tensor = self._loss_of(logits_NK.float(), targets)
        loss = labels_loss
        if teaching is not None and teacher_NK is not None:
            loss = teaching.loss(logits_NK, teacher_NK, labels_loss)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return labels_loss.detach()


def autocast(precision: TrainingPrecision, device: torch.device) -> torch.autocast:
    """The context in which a training step and its validation compute."""
    return torch.autocast(device.type, _TYPES[precision], enabled=precision != "fp32")


def check_precision(precision: TrainingPrecision, device: torch.device) -> None:
    """UsageError if ``device`` cannot train in ``precision``."""
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("`precision` fp16: a CPU has no gradient scaling in float16; use bf16 or fp32")


@contextmanager
def _compile_errors(compiles: bool) -> Iterator[None]:
    """One line instead of the long error of torch's compiler; the first call of the network compiles."""
    try:
        yield
    except Exception as exc:
        if not compiles or type(exc).__module__.split(".")[0] != "torch":
            raise
        raise UnavailableError(
            f"`compile`: torch cannot compile the network here ({one_line(exc, 200)}); leave `compile` out, or check "
            "that a C++ compiler is installed and the folder of temporary files can be written"
        ) from exc


def seed_from(*numbers: int) -> int:
    """One seed from several numbers of any size."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _optimizer(model: AlexNet, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        # Not fused: torch's fused SGD refuses a layer that begins to learn after others, and where the loss scale skips
        # the first step it keeps uninitialised memory as momentum. On one core 180 instead of 90 ms per step.
        return torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    # Fused: one pass over the weights instead of seven; for AlexNet's 57 million 40 instead of 170 ms per step.
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
