"""Stops a run that has diverged or learns nothing, with the reason, instead of wasting hours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet_deploy.errors import ProofError
from training.loop.run import EpochMetrics, Run

SETTLED_STEPS = 200
"""Steps after the warm-up before which a loss only has to be finite.

80 images of ten classes, one step per epoch: the loss jumps to 10.9 (a blind guess has 2.3) in the second step after
the warm-up, is back after nine and leaves chance after thirty. Several times that, and three epochs of Imagenette."""
CHANCE_EPOCHS = 5
"""Epochs at chance after which a run is stopped; AlexNet on ten classes leaves chance in the first or second."""
EXPLODED = 4.0
"""Limit of the loss, relative to a blind guess. First steps may exceed it; later, such a run never recovers."""
WINDOW = 50
"""Steps whose mean loss is compared with that limit: a single small batch may exceed it by chance."""


class StillAtChance(ProofError):
    """A run learns nothing; ``row`` is its last epoch."""

    def __init__(self, message: str, row: EpochMetrics) -> None:
        super().__init__(message)
        self.row = row


class DivergenceCheck:
    """Checks losses and accuracy. It keeps no state, so a resumed run is judged like an uninterrupted one."""

    def __init__(self, run: Run, steps_per_epoch: int) -> None:
        self.run, self.steps_per_epoch = run, steps_per_epoch
        self.blind_loss = math.log(run.arch.num_classes)
        self.warmup_steps = math.ceil(run.recipe.warmup_epochs * steps_per_epoch)

    def check_losses(self, step: int, losses: Sequence[float]) -> None:
        """Raise ProofError if the training losses of the ``WINDOW`` (or fewer) steps before ``step`` diverge."""
        epoch = -(-step // self.steps_per_epoch)
        for loss in losses:
            self.check_finite(epoch, loss)
        if len(losses) < WINDOW or step - WINDOW < self.warmup_steps + SETTLED_STEPS:
            return
        mean_loss = sum(losses) / len(losses)
        if mean_loss > EXPLODED * self.blind_loss:
            raise ProofError(
                f"{self.run.output}: the loss exploded to {mean_loss:.1f} in epoch {epoch} (a blind guess has "
                f"{self.blind_loss:.1f}); lower `lr` and choose another `output`"
            )

    def check_finite(self, epoch: int, loss: float) -> None:
        """Raise ProofError for a loss that is not finite."""
        if not math.isfinite(loss):
            clipping = "" if self.run.recipe.clip_norm else ", or clip the gradient: `overrides` clip_norm=1"
            raise ProofError(
                f"{self.run.output}: the loss became {loss} in epoch {epoch}; lower `lr` and choose another "
                f"`output`{clipping}"
            )

    def check_epochs(self, rows: Sequence[EpochMetrics]) -> None:
        """Raise StillAtChance if loss and accuracy have stayed at chance for too long; checked in validated epochs."""
        last = rows[-1]
        left = max((row.epoch for row in rows if self._has_left_chance(row)), default=0)
        steps = last.epoch * self.steps_per_epoch - max(left * self.steps_per_epoch, self.warmup_steps)
        if last.val_top1_percent is None or last.epoch - left < CHANCE_EPOCHS or steps < SETTLED_STEPS:
            return
        modern = "" if self.run.recipe.standardise or self.run.start else "`recipe` modern, "
        raise StillAtChance(
            f"{self.run.output}: still at chance ({last.val_top1_percent:.1f} % of {self.run.arch.num_classes} "
            f"classes) after epoch {last.epoch}, with a loss of {last.train_loss:.3f}, that of a blind guess; try "
            f"another `lr` (a tenth, or ten times), {modern}or check the labels",
            last,
        )

    def _has_left_chance(self, row: EpochMetrics) -> bool:
        top1_percent = row.val_top1_percent or 0.0  # without a validation the loss alone decides
        return row.train_loss <= 0.99 * self.blind_loss or top1_percent >= 1.5 * 100 / self.run.arch.num_classes
