"""What an ONNX of another tool does not record, and the user must provide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Preprocessing of an ONNX of another tool, and the meaning of its outputs; None: not known.

    ``mean`` and ``std`` hold one value per RGB channel on the 0..1 scale. ``labels`` is a text file with one label per
    line, a JSON list, or ``imagenet1k``. UsageError names a parameter out of range.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: str | Path | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            try:
                fits = len(values) == 3 and all(map(math.isfinite, values))
            except TypeError:  # not numbers
                fits = False
            if not fits:
                raise UsageError(f"`{name}` {values}: must be three finite numbers, for red, green and blue")
            if name == "std" and min(values) <= 0:
                raise UsageError(f"`std` {values}: must be above 0")


NO_IMPORT_OPTIONS = ImportOptions()
