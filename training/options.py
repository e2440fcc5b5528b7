"""Options that several commands share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Option

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
Batch = Annotated[int | None, Option(help="Global batch size, instead of the recipe's.")]
LearningRate = Annotated[float | None, Option(help="Peak learning rate, instead of the recipe's.")]
Workers = Annotated[int, Option(min=0, max=MAX_WORKERS, help="Processes that decode images.")]


def settings_from(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """The dataclass ``kind``, each field from the command's option of the same name."""
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
