"""The loss by the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.balance import class_weights
from training.loop.run import Run


class LabelLoss(nn.Module):
    """Cross-entropy with the recipe's label smoothing; ``balance`` loss weighs each image by its class."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        smoothing = run.recipe.label_smoothing
        self.balanced = run.recipe.balance == "loss"
        if self.balanced:
            weights_K = torch.from_numpy(class_weights(run.train.targets, run.arch.num_classes))
            self.cross_entropy = nn.CrossEntropyLoss(weights_K, reduction="none", label_smoothing=smoothing)
        else:
            self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=smoothing)

    def forward(self, logits_NK: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch; ``targets`` are class numbers ``[N]`` or shares ``[N, K]``."""
        loss: Tensor = self.cross_entropy(logits_NK, targets)
        # Not torch's mean with weights, which divides by their sum in the batch: processes that share a batch would
        # divide by different sums. Over all images the mean weight is 1.
        return loss.mean() if self.balanced else loss
