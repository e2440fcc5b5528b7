"""Recipes: how a model is trained, every number with its source."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alexnet_deploy.contract import IMAGENET_STD, MAX_SIDE
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
    augment: Literal["none", "trivial", "rand"] = "none"
    """``trivial``: TrivialAugment (arXiv:2103.10158); ``rand``: RandAugment (arXiv:1909.13719), 2 of strength 10."""
    mix: Literal["none", "cutmix"] = "none"
    """``cutmix``: every other batch, a box of each picture comes from another one (Yun et al. 2019)."""
    sides: tuple[tuple[float, int], ...] = ()
    """(share of the epochs, side): from there on pictures are trained at side x side pixels; (): the network's size.

    Shares rise from 0 and stay below 1."""
    standardise: bool = False
    """Convolutions with standardised weights while training (``standardise.py``)."""
    ema_decay: float | None = None
    """Of the average of the weights, in a step; of a short run less (``average_decay``)."""
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for flag, value, low, high in (
            ("--epochs", self.epochs, 1, 10_000),
            ("--batch", self.batch, 1, 65_536),
            ("--lr", self.lr, 1e-8, 100.0),
            ("--set weight_decay", self.weight_decay, 0.0, 1.0),
            ("--set momentum", self.momentum, 0.0, 0.9999),
            ("--set warmup_epochs", self.warmup_epochs, 0.0, 10_000.0),
            ("--set step_epochs", self.step_epochs, 1, 10_000),
            ("--set patience", self.patience, 1, 10_000),
            ("--set max_drops", self.max_drops, 0, 20),
            ("--set label_smoothing", self.label_smoothing, 0.0, 0.9),
            ("--set pca_sigma", self.pca_sigma, 0.0, 10.0),
            ("--set ema_decay", self.ema_decay, 0.0, 0.999999),
            ("--set clip_norm", self.clip_norm, 1e-6, 1e6),
        ):
            if value is not None and not low <= value <= high:
                raise UsageError(f"{flag} {value}: is not within {low}..{high}; choose a value inside")
        shares = [share for share, _ in self.sides]
        if shares and (shares[0] != 0 or shares[-1] >= 1 or shares != sorted(set(shares))):
            raise UsageError(
                f"--set sides: shares {', '.join(map(str, shares))} of the epochs; let them rise from 0 and stay below "
                "1, as in [[0, 128], [0.5, 224]]"
            )

    def lr_at(self, epoch: float, val_errors: Sequence[tuple[int, float]] = ()) -> float:
        """Learning rate at a (fractional) epoch: linear warm-up, then cosine to 0 or steps of 1/10.

        ``val_errors``, (epoch, error) of each validation so far, decide where the schedule is ``plateau``.
        """
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1e-3) / self.warmup_epochs
        if self.schedule == "step":
            return self.lr * math.pow(0.1, epoch // self.step_epochs)
        if self.schedule == "plateau":
            return self.lr * math.pow(0.1, min(_stalls(val_errors, self.patience), self.max_drops))
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def average_decay(self, images: int) -> float | None:
        """``ema_decay``, or what lets the average reach back over an eighth of the steps over ``images`` at most.

        A decay d averages some 1 / (1 - d) steps. Where those are half of a run, the average still holds its first
        weights at the end: 15 epochs of Imagenette lost 5.4 points of top-1 by 0.998 (docs/training.md).
        """
        steps = self.epochs * max(images // self.batch, 1)
        return None if self.ema_decay is None else min(self.ema_decay, max(1 - 8 / steps, 0.0))

    def side_at(self, epoch: int, side: int) -> int:
        """Height and width of the training pictures of an epoch (from 0) of a network for ``side`` pixels."""
        return next((small for share, small in reversed(self.sides) if epoch >= share * self.epochs), side)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def _stalls(errors: Sequence[tuple[int, float]], patience: int) -> int:
    """How often ``patience`` epochs passed without an error lower than the lowest before them."""
    lowest, since, stalls = math.inf, 0, 0
    for epoch, error in errors:
        if error < lowest:
            lowest, since = error, epoch
        elif epoch - since >= patience:
            since, stalls = epoch, stalls + 1
    return stalls


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's published AlexNet reference: references/classification, "--lr 1e-2", step 30, 90 epochs.
        Recipe("torchvision", 90, 128, "sgd", 0.01, 1e-4, "kaiming", "step"),
        # What was measured of each stands in docs/training.md. Optimizer: AdamW (Loshchilov & Hutter, arXiv:1711.05101)
        # with a clipped gradient starts a net without batch norm at once. Standardised weights: Brock et al.
        # (arXiv:2101.08692). Crops of a quarter and more: 0.08 is tuned for 90 epochs of ImageNet's million. Sides:
        # a picture enlarged by random crops wants a larger test picture (Touvron et al., arXiv:1906.06423), and small
        # ones cost a third. Smoothing: Szegedy et al. 2015 (arXiv:1512.00567). No averaged weights: where the rate ends
        # at 0 they change nothing.
        Recipe(
            "modern",
            64,
            128,
            "adamw",
            5e-4,
            0.05,
            "kaiming",
            "cosine",
            warmup_epochs=2,
            label_smoothing=0.1,
            crop_scale=(0.25, 1.0),
            augment="trivial",
            sides=((0.0, 128), (0.5, 176), (0.8, 224)),
            standardise=True,
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
        # For trained weights that were changed a little (training/compress.py). A first choice, not yet compared: a
        # fifth of "modern"'s rate, which was chosen for drawn weights, and milder crops. The average spans 100 steps,
        # some 1.4 epochs of Imagenette: over eight epochs one of 500 would still hold a third of its first weights.
        Recipe(
            "finetune",
            8,
            128,
            "adamw",
            1e-4,
            0.05,
            "kaiming",
            "cosine",
            warmup_epochs=1,
            label_smoothing=0.1,
            crop_scale=(0.35, 1.0),
            ema_decay=0.99,
            clip_norm=1.0,
        ),
    )
}


def recipe(name: str, **changes: Any) -> Recipe:
    """The recipe ``name`` with some numbers changed (None: as it is); UsageError where the name is unknown."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown; choose one of {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})


def with_settings(base: Recipe, settings: Sequence[str]) -> Recipe:
    """``base`` with ``FIELD=VALUE`` settings, the value as JSON or a word; UsageError where one does not fit."""
    fields = {field.name: field for field in dataclasses.fields(Recipe) if field.name in _SETTABLE}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in fields:
            raise UsageError(f"--set {setting}: takes FIELD=VALUE with a field of {', '.join(fields)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if not _SETTABLE[name](value):
            raise UsageError(f"--set {setting}: does not fit the field; {base.name} has {getattr(base, name)!r}")
        changes[name] = _tuples(value)
    return dataclasses.replace(base, **changes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


def _is_crop_scale(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1] <= 1
    )


def _is_sides(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and _is_number(pair[0])
        and _is_count(pair[1])
        and 63 <= pair[1] <= MAX_SIDE
        for pair in value
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


_SETTABLE: dict[str, Callable[[object], bool]] = {
    "optimizer": _one_of("sgd", "adamw"),
    "weight_decay": _is_number,
    "init": _one_of("paper", "kaiming"),
    "schedule": _one_of("cosine", "step", "plateau"),
    "warmup_epochs": _is_number,
    "step_epochs": _is_count,
    "patience": _is_count,
    "max_drops": _is_count,
    "momentum": _is_number,
    "label_smoothing": _is_number,
    "crop_scale": _is_crop_scale,
    "flip": _is_switch,
    "pca_sigma": _is_number,
    "augment": _one_of("none", "trivial", "rand"),
    "mix": _one_of("none", "cutmix"),
    "sides": _is_sides,
    "standardise": _is_switch,
    "ema_decay": lambda value: value is None or _is_number(value),
    "clip_norm": lambda value: value is None or _is_number(value),
}
"""Which fields ``--set`` changes, and what it takes for each; the others have a flag of their own."""
