"""Stops a run that learns nothing any more, with the cause, instead of burning hours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet_deploy.errors import ProofError
from training.run import EpochRow, Run

SETTLED_STEPS = 200
"""Steps after the warm-up before which a number is the only thing that is asked of a loss.

80 images of ten classes, one step an epoch: the loss leaps to 10.9 (2.3 is a blind guess) in the second step after the
warm-up, is back after nine and leaves chance after thirty. Several times that, and three epochs of Imagenette."""
CHANCE_EPOCHS = 5
"""Epochs at chance after which a run is given up; AlexNet on ten classes leaves chance in the first or second."""
EXPLODED = 4.0
"""Times the loss of a blind guess. First steps may leap; a settled run that is there never recovers."""
WINDOW = 50
"""Steps whose mean loss is compared with that: a single small batch may be as wrong by chance."""


class Watch:
    """Looks at losses and accuracy. It remembers nothing, so a resumed run is judged as an undisturbed one."""

    def __init__(self, run: Run, steps_per_epoch: int) -> None:
        self.run, self.steps_per_epoch = run, steps_per_epoch
        self.blind_loss = math.log(run.arch.num_classes)
        self.warmup_steps = math.ceil(run.recipe.warmup_epochs * steps_per_epoch)

    def losses(self, step: int, losses: Sequence[float]) -> None:
        """Raise ProofError where the training losses of the ``WINDOW`` (or fewer) steps before ``step`` show an end."""
        epoch = -(-step // self.steps_per_epoch)
        for loss in losses:
            self.finite(epoch, loss)
        if len(losses) < WINDOW or step - WINDOW < self.warmup_steps + SETTLED_STEPS:
            return
        mean_loss = sum(losses) / len(losses)
        if mean_loss > EXPLODED * self.blind_loss:
            raise ProofError(
                f"{self.run.output}: the loss exploded to {mean_loss:.1f} in epoch {epoch} (a blind guess has "
                f"{self.blind_loss:.1f}); lower --lr and choose another --output"
            )

    def finite(self, epoch: int, loss: float) -> None:
        """Raise ProofError for a loss that is no number."""
        if not math.isfinite(loss):
            clipping = "" if self.run.recipe.clip_norm else ", or clip the gradient: --set clip_norm=1"
            raise ProofError(
                f"{self.run.output}: the loss became {loss} in epoch {epoch}; lower --lr and choose another "
                f"--output{clipping}"
            )

    def rows(self, rows: Sequence[EpochRow]) -> None:
        """Raise ProofError where the last row is validated and loss and accuracy have not left chance for too long."""
        last = rows[-1]
        left = max((row.epoch for row in rows if self._has_left_chance(row)), default=0)
        steps = last.epoch * self.steps_per_epoch - max(left * self.steps_per_epoch, self.warmup_steps)
        if last.val_top1_percent is None or last.epoch - left < CHANCE_EPOCHS or steps < SETTLED_STEPS:
            return
        modern = "" if self.run.recipe.standardise or self.run.start else "--recipe modern, "
        raise ProofError(
            f"{self.run.output}: still at chance ({last.val_top1_percent:.1f} % of {self.run.arch.num_classes} "
            f"classes) after epoch {last.epoch}, with a loss of {last.train_loss:.3f}, that of a blind guess; try "
            f"another --lr (a tenth, or ten times), {modern}or look at the labels"
        )

    def _has_left_chance(self, row: EpochRow) -> bool:
        top1_percent = row.val_top1_percent or 0.0  # without a validation the loss alone speaks
        return row.train_loss <= 0.99 * self.blind_loss or top1_percent >= 1.5 * 100 / self.run.arch.num_classes
