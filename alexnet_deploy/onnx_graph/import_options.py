"""What an ONNX of another tool does not record, and the user must provide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Preprocessing of an ONNX of another tool, and the meaning of its outputs; None: not known.

    ``mean`` and ``std`` hold one value per RGB channel on the 0..1 scale. ``labels`` is a text file with one label per
    line, a JSON list, or ``imagenet1k``.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None


NO_IMPORT_OPTIONS = ImportOptions()
