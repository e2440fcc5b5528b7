"""Options that several commands share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Option

from alexnet_deploy.cli.engines import needs
from training.choices import TEMPERATURE, WEIGHT, TeacherView
from training.recipes.recipe import Balance, TrainingPrecision

Settings = TypeVar("Settings")

MAX_WORKERS = 256
"""Each is a process of some hundred MiB. More workers help on no machine, so a larger number is a typing error."""
MAX_SEED = 2**63 - 1
"""The largest seed of torch.manual_seed."""

CheckpointFile = Annotated[Path, Argument(metavar="CHECKPOINT", help="A checkpoint.safetensors.")]
Val = Annotated[Path | None, Option(help="Validation folder.  [default: DATA/val]")]
ValLabels = Annotated[
    Path | None,
    Option(help="Classes of a validation folder without class folders: ImageNet's LOC_val_solution.csv, val.txt."),
]
AllowUnreadable = Annotated[bool, Option("--allow-unreadable", help="Leave out files that cannot be read.")]
Batch = Annotated[int | None, Option(help="Global batch size, instead of the recipe's.")]
LearningRate = Annotated[float | None, Option(help="Peak learning rate, instead of the recipe's.")]
BalanceClasses = Annotated[
    Balance | None,
    Option(
        help="Classes of unequal size: sampler shows all equally often, loss weighs rare ones more.  [default: none]"
    ),
]
EarlyStop = Annotated[
    int | None,
    Option(min=1, help="Stop after so many epochs without a better validation, and keep the best epoch."),
]
Exclude = Annotated[Path | None, Option(help="List of images to leave out, one path per line.")]
Folds = Annotated[int | None, Option(help="Cross-validate: train so many times, each on all images but a share.")]
ResizeTo = Annotated[
    int | None,
    Option(help="Resize photos to this size before the crop, which shows objects larger.  [default: as trained]"),
]


def _loader_processes() -> int:
    with needs("train"):
        from training.loop.device import loader_processes

    return loader_processes()


def _default_precision() -> TrainingPrecision:
    with needs("train"):
        from training.loop.device import default_precision

    return default_precision()


Workers = Annotated[
    int,
    Option(
        min=0,
        max=MAX_WORKERS,
        default_factory=_loader_processes,
        show_default="2; for a GPU one per core, 16 at most",
        help="Processes that decode images.",
    ),
]
MatrixPrecision = Annotated[
    TrainingPrecision,
    Option(
        default_factory=_default_precision,
        show_default="bf16; without instructions for it fp16 on CUDA, fp32 on a CPU",
        help="Precision of the matrix products; fp16 needs CUDA.",
    ),
]
Teacher = Annotated[
    list[str] | None,
    Option(metavar="SOURCE", help="Whom to learn from, beside the labels; give it again for another one."),
]
View = Annotated[
    TeacherView | None,
    Option(help="What a teacher sees: the student's picture, or the whole one, computed once.  [default: same]"),
]
Temperature = Annotated[
    float | None, Option(help=f"Divides the logits before they are compared.  [default: {TEMPERATURE:g}]")
]
Weight = Annotated[float | None, Option(help=f"Share of the teachers in the loss.  [default: {WEIGHT:g}]")]
ScaleEpochs = Annotated[int, Option(min=0, help="Last epochs, on pictures as inference sees them.")]
ScaleRate = Annotated[float | None, Option(help="Their peak learning rate.  [default: a tenth of --lr]")]
ConvRate = Annotated[float | None, Option(help="Their rate for the convolutions.  [default: 0, they are fixed]")]


def settings_from(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """The dataclass ``kind``, each field from the command's option of the same name."""
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
