"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MAX_WORKERS = 256
"""Each is a process of some hundred MiB; more keep no machine busier and are a slip of the finger."""

Workers = Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Processes that decode images.")]
ValLabels = Annotated[
    Path | None,
    typer.Option(
        help="Classes of a validation folder without class folders: ImageNet's LOC_val_solution.csv, val.txt."
    ),
]
