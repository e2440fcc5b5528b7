"""A recipe: every number that determines how a model is trained, with its type and bounds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from alexnet_deploy.contract import IMAGENET_STD, MAX_SIDE
from alexnet_deploy.errors import UsageError

RecipeName = Literal["torchvision", "modern", "paper", "finetune", "transfer"]
Balance = Literal["none", "sampler", "loss"]
TrainingPrecision = Literal["bf16", "fp16", "fp32"]

_Count = Annotated[int, Meta(ge=1, le=10_000)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_CropScale = Annotated[tuple[_Share, _Share], Meta(description="two rising shares of the area, such as [0.25, 1]")]
_Side = Annotated[int, Meta(ge=63, le=MAX_SIDE)]  # below 63 pixels nothing is left for the last max-pool
_Sides = Annotated[
    tuple[tuple[_Share, _Side], ...],
    Meta(description=f"pairs of a share of the epochs and a side of 63 to {MAX_SIDE}, such as [[0, 128], [0.5, 224]]"),
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train. ``batch`` is the global batch over all processes; learning rates are for that batch.

    UsageError, which names the field, for a value outside the field's type.
    """

    name: RecipeName
    epochs: _Count
    batch: Annotated[int, Meta(ge=1, le=65_536)]
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Meta(ge=1e-8, le=100)]
    weight_decay: _Share
    init: Literal["paper", "kaiming"]
    schedule: Literal["cosine", "step", "plateau"]
    warmup_epochs: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    step_epochs: _Count = 30
    patience: _Count = 5
    """For ``plateau``: epochs without a new lowest validation error after which the rate is divided by 10."""
    max_drops: Annotated[int, Meta(ge=0, le=20)] = 3
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.9
    label_smoothing: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    crop_scale: _CropScale | None = (0.08, 1.0)
    """Share of the picture's area that a training crop covers (Szegedy et al. 2014, "Inception crop").

    None: a crop of the network's size out of ``picture_for_crops``.
    """
    flip: bool = True
    pca_sigma: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Strength of the paper's colour noise."""
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    """What pixels (0..1, less ImageNet's mean) are divided by; it becomes part of the model's contract."""
    augment: Literal["none", "trivial", "rand"] = "none"
    """``trivial``: TrivialAugment (arXiv:2103.10158); ``rand``: RandAugment (arXiv:1909.13719), 2 of strength 10."""
    mix: Literal["none", "cutmix"] = "none"
    """``cutmix``: in every other batch, a box of each picture comes from another one (Yun et al. 2019)."""
    sides: _Sides = ()
    """(share of the epochs, side): from there on pictures are trained at side x side pixels; (): the network's size.

    Shares rise from 0 and stay below 1."""
    standardise: bool = False
    """Convolutions with standardised weights while training (``loop/standardise.py``)."""
    ema_decay: Annotated[float, Meta(ge=0, le=0.999999)] | None = None
    """Decay per step of the average of the weights; lower in a short run (``average_decay``)."""
    clip_norm: Annotated[float, Meta(ge=1e-6, le=1_000_000)] | None = None
    repeats: _Count = 1
    """How often an epoch shows each image, with another crop each time: on little data, so an epoch has some steps."""
    balance: Balance = "none"
    """Classes of unequal size. ``sampler``: an epoch shows all equally often; ``loss``: rare ones weigh more."""
    conv_lr: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Peak rate of the convolutions, which follows the schedule of ``lr``; None: ``lr``; 0: they stay as they are."""
    head_lr: Annotated[float, Meta(ge=1e-8, le=100)] | None = None
    """Peak rate of the last layer, which follows the schedule of ``lr``; None: ``lr``."""
    freeze: Literal["features", "all-but-head"] | None = None
    """Layers that stay as they are: the convolutions, or all but the last layer."""
    unfreeze_every: _Count | None = None
    """Epochs after which one more of the frozen layers learns, the last first; None: they stay frozen."""
    view: Literal["crops", "inference"] = "crops"
    """``inference``: whole pictures as inference sees them, instead of random crops; ``flip`` still applies."""

    def __post_init__(self) -> None:
        for name in _types():
            if problem := _problem(name, value := getattr(self, name)):
                raise UsageError(f"`{name}` {value}: {problem}")

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

    def steps_per_epoch(self, images: int) -> int:
        """Steps of an epoch over ``images``; the last short batch is dropped."""
        return max(images * self.repeats // self.batch, 1)

    def average_decay(self, images: int) -> float | None:
        """``ema_decay``, lowered so that the average spans at most an eighth of the steps of a run over ``images``.

        A decay d averages some 1 / (1 - d) steps. Where those are half of a run, the average still holds its first
        weights at the end: with 0.998, 15 epochs of Imagenette lost 5.4 points of top-1 (docs/training.md).
        """
        steps = self.epochs * self.steps_per_epoch(images)
        return None if self.ema_decay is None else min(self.ema_decay, max(1 - 8 / steps, 0.0))

    def side_at(self, epoch: int, side: int) -> int:
        """Height and width of the training pictures in an epoch (from 0), for a network of ``side`` pixels."""
        # 0.55 of 100 epochs is 55, and in binary a little more.
        return next((small for share, small in reversed(self.sides) if epoch >= round(share * self.epochs, 6)), side)


def _stalls(errors: Sequence[tuple[int, float]], patience: int) -> int:
    """Number of times that ``patience`` epochs passed without a new lowest error."""
    lowest, since, stalls = math.inf, 0, 0
    for epoch, error in errors:
        if error < lowest:
            lowest, since = error, epoch
        elif epoch - since >= patience:
            since, stalls = epoch, stalls + 1
    return stalls


def apply_overrides(base: Recipe, overrides: Sequence[str]) -> Recipe:
    """``base`` with ``FIELD=VALUE`` overrides, the value as JSON or plain text; UsageError if one does not fit."""
    # The pixels' deviation goes with the contract.
    fields = [name for name in _types() if name not in (*OPTIONS, "name", "pixel_std")]
    changes: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if name in OPTIONS:
            raise UsageError(f"`overrides` {override}: {name} has its own option; use `{name}`")
        if name not in fields or not equals:
            wrong = f"has no field {name!r}" if equals else "is not FIELD=VALUE"
            raise UsageError(f"`overrides` {override}: {wrong}; the fields are {', '.join(fields)}")
        value: Any = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
        with contextlib.suppress(msgspec.ValidationError):
            value = msgspec.convert(value, _types()[name], strict=False)
        if problem := _problem(name, value):
            default = json.dumps(getattr(base, name))
            raise UsageError(f"`overrides` {override}: {name} {problem}; {base.name} has {default}")
        changes[name] = value
    return dataclasses.replace(base, **changes)


OPTIONS = ("epochs", "batch", "lr", "balance", "head_lr", "freeze", "unfreeze_every")
"""Fields that have an option of their own."""


@functools.cache
def _types() -> dict[str, Any]:
    """The type of each field of a recipe, with its bounds."""
    return typing.get_type_hints(Recipe, include_extras=True)


def _problem(name: str, value: Any) -> str | None:
    """The problem with a value of the field ``name``, as the end of a sentence; None if it fits."""
    try:
        msgspec.convert(value, _types()[name])
    except msgspec.ValidationError:
        return f"must be {_description(_types()[name])}"
    if name == "crop_scale" and value is not None and not 0 < value[0] <= value[1]:
        return f"must be {_description(_types()[name])}"
    shares = [share for share, _ in value] if name == "sides" else []
    if shares and (shares[0] != 0 or shares[-1] >= 1 or shares != sorted(set(shares))):
        return "has shares of the epochs that do not rise from 0 and stay below 1, as in [[0, 128], [0.5, 224]]"
    return None


def _description(hint: Any) -> str:
    """The valid values of a field of this type."""
    if typing.get_origin(hint) is Literal:
        *words, last = typing.get_args(hint)
        return f"{', '.join(words)} or {last}"
    if typing.get_origin(hint) is Annotated:
        base, meta = typing.get_args(hint)
        number = "a whole number" if base is int else "a number"
        return meta.description or f"{number} from {meta.ge} to {meta.le}"
    if type(None) in typing.get_args(hint):
        return f"{_description(typing.get_args(hint)[0])}, or null"
    return "true or false" if hint is bool else "three numbers"
