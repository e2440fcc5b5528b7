"""The description of one training run, and its metrics per epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_deploy.contract import NEW_DECODING, ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError, require_positive
from alexnet_deploy.model.architecture import Architecture
from alexnet_deploy.model.checkpoint import Checkpoint
from training.data.lists.listing import ImageList
from training.distil.distillation import Distillation
from training.loop.device import default_precision
from training.loop.standardise import have_mean_0
from training.recipes.recipe import Recipe, TrainingPrecision


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop trains, whatever the network, the recipe and the data."""

    seed: int = 0
    workers: int = 2
    resume: bool = False
    precision: TrainingPrecision = field(default_factory=default_precision)
    """Precision of the matrix products, by autocast; fp32: no autocast. Weights are always float32."""
    cache: bool = False
    """Decode every training picture once, in full, into a file in ``output`` that lives as long as the run."""
    full_decode: bool = False
    """Decode large JPEGs in full for a crop that needs less."""
    compile: bool = False
    """Compile the network with torch.compile: faster on a GPU, after minutes of compiling."""
    val_every: int = 1
    """Epochs from one validation to the next; the last epoch always has one."""
    early_stop: int | None = None
    """Stop after so many epochs without a better validation, and keep the best epoch; None: keep the last."""
    save_every_s: float = 600.0
    """Seconds after which the state is also saved within an epoch."""


@dataclass(frozen=True, slots=True)
class Run(LoopSettings):
    """One training run: the network, the recipe, the data, and where the results go."""

    arch: Architecture
    recipe: Recipe
    train: ImageList
    val: ImageList
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    output: Path
    start: Checkpoint | None = None
    """Initial weights instead of random ones; of the same architecture and classes. To be standardised, each filter
    must have mean 0."""
    distillation: Distillation | None = None
    """Teachers beside the labels."""

    def __post_init__(self) -> None:
        require_positive(early_stop=self.early_stop)
        if self.recipe.freeze and self.recipe.standardise:
            # Standardising rounds the weights that are to stay as they are.
            raise UsageError(
                f"`freeze` {self.recipe.freeze}: the recipe {self.recipe.name} standardises convolutions; add `recipe` "
                "transfer or `overrides` standardise=false"
            )
        if self.start is not None and self.recipe.standardise and not have_mean_0(self.start.weights):
            # Each filter would lose its mean, so the run would start with another function.
            raise UsageError(
                f"`start`: the recipe {self.recipe.name} standardises convolutions, which would change the given "
                "weights, as their filters have a mean; add `recipe` transfer or `overrides` standardise=false"
            )

    def config(self) -> dict[str, Any]:
        """Everything that determines the weights bit by bit on one machine; a resumed run must have the same."""
        return as_json(
            {
                "arch": self.arch.to_dict(),
                "recipe": dataclasses.asdict(self.recipe),
                "preprocessing": dataclasses.asdict(self.preprocessing),
                "seed": self.seed,
                "data": self.train.digest() + self.val.digest(),
                "precision": self.precision,
                "decoding": self.crop_preprocessing.decoding,
                "start": weights_digest(self.start) if self.start else None,
                # With ``plateau`` the rate, and so the weights, depend on the validations; so does an early end.
                "val_every": self.val_every if self.recipe.schedule == "plateau" or self.early_stop else None,
            }
            | ({"early_stop": self.early_stop} if self.early_stop else {})
            | ({"teacher": self.distillation.config()} if self.distillation else {})
        )

    def former_data(self) -> str:
        """``data`` of the configuration as earlier runs recorded it."""
        return self.train.former_digest() + self.val.former_digest()

    @property
    def crop_preprocessing(self) -> Preprocessing:
        """The preprocessing of training crops, with their rule of decoding: a checkpoint has none."""
        in_full = self.cache or self.full_decode
        return dataclasses.replace(self.preprocessing, decoding="full" if in_full else NEW_DECODING)

    def contract(self) -> ModelContract:
        """The contract of the resulting model."""
        return ModelContract(self.arch.name, self.labels, self.train.class_ids, self.preprocessing)


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One line of metrics.jsonl. After a resume, ``train_loss`` and the speeds are of the rest of that epoch.

    Validation uses the averaged weights if the recipe averages; None in an epoch without validation.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float | None
    val_top1_percent: float | None
    images_per_s: float
    data_wait_percent: float
    val_class_mean_percent: float | None = None
    """Share of each class that is right, as a mean over those of the validation split; earlier runs lack it."""


OnEpoch = Callable[[EpochMetrics, int], None]
"""Gets the metrics of each epoch and the number of epochs of the run."""


def no_epochs(row: EpochMetrics, epochs: int) -> None:
    """For callers that look at no epoch."""


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and values of the weights, independent of their file."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.weights.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` after a round trip through JSON: a tuple becomes a list."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
