"""Stops a run that learns nothing any more, with the cause, instead of burning hours."""

from __future__ import annotations

import math

from alexnet_deploy.errors import ProofError

CHANCE_EPOCHS = 5
"""Epochs at chance after which a run is given up; AlexNet on ten classes leaves chance in the first or second."""
EXPLODED = 4.0
"""Times the loss of a blind guess. First steps may leap (to 1.5 times, with Kaiming's weights); this never recovers."""


class Watch:
    """Looks at each epoch's losses and accuracy. ``classes`` says what chance is; ``where`` begins every message."""

    def __init__(self, where: str, classes: int) -> None:
        self.where, self.classes = where, classes
        self.blind_loss = math.log(classes)
        self._epochs_at_chance = 0

    def loss(self, epoch: int, mean_loss: float) -> None:
        """Raise ProofError for the mean training loss of (a part of) an epoch that is not finite or exploded."""
        if not math.isfinite(mean_loss):
            raise ProofError(
                f"{self.where}: the loss became {mean_loss} in epoch {epoch}; lower --lr and choose another --output, "
                "or clip the gradient as --recipe modern does"
            )
        if epoch > 1 and mean_loss > EXPLODED * self.blind_loss:
            raise ProofError(
                f"{self.where}: the loss exploded to {mean_loss:.1f} in epoch {epoch} (a blind guess has "
                f"{self.blind_loss:.1f}); lower --lr and choose another --output"
            )

    def validation(self, epoch: int, train_loss: float, top1_percent: float) -> None:
        """Raise ProofError where neither the loss nor the accuracy has left chance for ``CHANCE_EPOCHS`` in a row."""
        blind = train_loss > 0.99 * self.blind_loss and top1_percent < 1.5 * 100 / self.classes
        self._epochs_at_chance = self._epochs_at_chance + 1 if blind else 0
        if self._epochs_at_chance >= CHANCE_EPOCHS:
            raise ProofError(
                f"{self.where}: still at chance ({top1_percent:.1f} % of {self.classes} classes) after epoch {epoch}, "
                f"with a loss of {train_loss:.3f}, that of a blind guess; try another --lr (a tenth, or ten times), "
                "--recipe modern, or look at the labels"
            )
