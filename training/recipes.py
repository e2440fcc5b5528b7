"""Recipes: how a model is trained, every number with its source."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

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
    schedule: Literal["cosine", "step"]
    warmup_epochs: float = 0.0
    step_epochs: int = 30
    momentum: float = 0.9
    label_smoothing: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that a training crop covers (Szegedy et al. 2014, "Inception crop")."""
    flip: bool = True
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

    def lr_at(self, epoch: float) -> float:
        """Learning rate at a (fractional) epoch: linear warm-up, then cosine to 0 or steps of 1/10."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1e-3) / self.warmup_epochs
        if self.schedule == "step":
            return self.lr * math.pow(0.1, epoch // self.step_epochs)
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's published AlexNet reference: references/classification, "--lr 1e-2", step 30, 90 epochs.
        Recipe("torchvision", 90, 128, "sgd", 0.01, 1e-4, "kaiming", "step"),
        # Chosen by short runs on Imagenette (docs/training.md): AdamW (Loshchilov & Hutter, arXiv:1711.05101)
        # trains a net without batch norm at once, where SGD at its stable rate is several epochs behind.
        # Crops cover at least a quarter: 0.08, tuned for 90 epochs of ImageNet, underfits a small data set.
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
    )
}


def recipe(name: str, **changes: Any) -> Recipe:
    """The recipe ``name`` with some numbers changed (None: as it is); UsageError where the name is unknown."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown; choose one of {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})
