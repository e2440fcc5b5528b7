"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MAX_WORKERS = 256
"""Each is a process of some hundred MiB. More keep no machine busier, so a larger number is a typing error."""
MAX_SEED = 2**63 - 1
"""The largest that torch.manual_seed takes."""

CheckpointFile = Annotated[Path, typer.Argument(help="A checkpoint.safetensors.")]
Val = Annotated[Path | None, typer.Option(help="Validation folder; default: DATA/val.")]
ValLabels = Annotated[
    Path | None,
    typer.Option(
        help="Classes of a validation folder without class folders: ImageNet's LOC_val_solution.csv, val.txt."
    ),
]
Batch = Annotated[int | None, typer.Option(help="Global batch size, instead of the recipe's.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate, instead of the recipe's.")]
Workers = Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Processes that decode images.")]
