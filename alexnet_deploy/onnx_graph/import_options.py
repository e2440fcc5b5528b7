"""What an ONNX of another tool does not hold, and the user must say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How an ONNX of another tool is preprocessed and what its outputs mean; None: not known.

    ``mean`` and ``std`` hold one value per RGB channel on the 0..1 scale. ``labels`` is a text file with one label per
    line, a JSON list, or the word ``imagenet1k``.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None


NO_IMPORT_OPTIONS = ImportOptions()
