"""Recipes: how a model is trained, every number with its source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alexnet_deploy.contract import IMAGENET_STD
from alexnet_deploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train. ``batch`` is the global batch over all processes; learning rates are for that batch."""

    name: str
    epochs: int
    batch: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    init: Literal["paper", "kaiming"]
    schedule: Literal["cosine", "step", "plateau"]
    warmup_epochs: float = 0.0
    step_epochs: int = 30
    patience: int = 5
    """Of ``plateau``: epochs without a new lowest validation error after which the rate is divided by 10."""
    max_drops: int = 3
    momentum: float = 0.9
    label_smoothing: float = 0.0
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    """Share of the picture's area that a training crop covers (Szegedy et al. 2014, "Inception crop").

    None: a crop of the network's size out of ``augment.paper_square``.
    """
    flip: bool = True
    pca_sigma: float = 0.0
    """Strength of the paper's colour noise."""
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    """What pixels (0..1, less ImageNet's mean) are divided by; it becomes part of the model's contract."""
    ema_decay: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for flag, value, low, high in (
            ("--epochs", self.epochs, 1, 10_000),
            ("--batch", self.batch, 1, 65_536),
            ("--lr", self.lr, 1e-8, 100.0),
            ("--weight-decay", self.weight_decay, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise UsageError(f"{flag} {value}: is not within {low}..{high}; choose a value inside")

    def lr_at(self, epoch: float, val_errors: Sequence[float] = ()) -> float:
        """Learning rate at a (fractional) epoch: linear warm-up, then cosine to 0 or steps of 1/10.

        ``val_errors`` of the epochs so far decide where the schedule is ``plateau``.
        """
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1e-3) / self.warmup_epochs
        if self.schedule == "step":
            return self.lr * math.pow(0.1, epoch // self.step_epochs)
        if self.schedule == "plateau":
            return self.lr * math.pow(0.1, min(_stalls(val_errors, self.patience), self.max_drops))
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def _stalls(errors: Sequence[float], patience: int) -> int:
    """How often ``patience`` values in a row were no lower than the lowest before them."""
    lowest, waited, stalls = math.inf, 0, 0
    for error in errors:
        if error < lowest:
            lowest, waited = error, 0
        elif (waited := waited + 1) == patience:
            waited, stalls = 0, stalls + 1
    return stalls


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's published AlexNet reference: references/classification, "--lr 1e-2", step 30, 90 epochs.
        Recipe("torchvision", 90, 128, "sgd", 0.01, 1e-4, "kaiming", "step"),
        # A first choice, not yet compared ingredient by ingredient: AdamW (Loshchilov & Hutter, arXiv:1711.05101) and
        # a clipped gradient start a net without batch norm at once; crops of a quarter and more (0.08 is tuned for 90
        # epochs of ImageNet) suit a small data set; smoothing as in Szegedy et al. 2015 (arXiv:1512.00567).
        Recipe(
            "modern",
            60,
            128,
            "adamw",
            5e-4,
            0.05,
            "kaiming",
            "cosine",
            warmup_epochs=2,
            label_smoothing=0.1,
            crop_scale=(0.25, 1.0),
            ema_decay=0.998,
            clip_norm=1.0,
        ),
        # Krizhevsky et al. 2012. Section 5: SGD, batch 128, momentum 0.9, weight decay 0.0005; weights N(0, 0.01),
        # biases 0 and 1; 0.01 divided by 10 when the validation error stops improving, three times; some 90 cycles.
        # Section 4.1: crops out of 256 x 256, reflections, colour noise of 0.1. Section 2: pixels on the 0..255 scale
        # less their mean (by pixel there, by channel here): with unit variance so small an initialisation has no
        # signal left after five layers. The authors lowered the rate by hand; 5 epochs of patience are ours. The rate
        # is for 1000 classes: ten need --lr 0.0003 (docs/training.md says why).
        Recipe(
            "paper",
            90,
            128,
            "sgd",
            0.01,
            5e-4,
            "paper",
            "plateau",
            crop_scale=None,
            pca_sigma=0.1,
            pixel_std=(1 / 255, 1 / 255, 1 / 255),
        ),
    )
}


def recipe(name: str, **changes: Any) -> Recipe:
    """The recipe ``name`` with some numbers changed (None: as it is); UsageError where the name is unknown."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown; choose one of {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})
