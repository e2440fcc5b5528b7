"""The loss of a student: its distance to the teacher's probabilities, mixed with the loss by the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Legend: N image, V view, K class


def soft_targets(logits_NVK: Tensor, temperature: float) -> Tensor:
    """A teacher's probabilities ``[N, K]``, float32: the mean over its views of softmax(logits / temperature)."""
    return (logits_NVK.float() / temperature).softmax(2).mean(1)


def mean_targets(teachers_NK: list[Tensor]) -> Tensor:
    """The mean of several teachers' probabilities.

    Hinton et al. (section 2) name the arithmetic and the geometric mean. The arithmetic one is what ten crops and
    ensembles are evaluated by here; the geometric one (the mean of the logits) lets one teacher that is sure that a
    class is wrong veto it against all others.
    """
    return torch.stack(teachers_NK).mean(0)


def distillation_loss(
    logits_NK: Tensor, teacher_NK: Tensor, labels_loss: Tensor, *, temperature: float, weight: float
) -> Tensor:
    """weight T² KL(p ‖ q) + (1 - weight) ``labels_loss``, a scalar.

    Hinton, Vinyals, Dean (arXiv:1503.02531, section 2): p are the teacher's probabilities and q those of the student,
    both at the temperature T. The factor T² keeps the size of the gradient, which falls with 1/T². Their cross-entropy
    differs from the divergence by the teacher's own entropy, which has no gradient. KL is the mean over the images.
    """
    log_q_NK = (logits_NK.float() / temperature).log_softmax(1)
    divergence = nn.functional.kl_div(log_q_NK, teacher_NK, reduction="batchmean")
    return weight * temperature**2 * divergence + (1 - weight) * labels_loss
