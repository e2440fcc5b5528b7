"""What the user says of an ONNX of another tool, which the file itself cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an ONNX of another tool cannot tell of itself, as the user's flags say it; None: not said.

    ``labels`` is a text file with one label a line, a JSON list, or the word ``imagenet1k``.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None


NO_IMPORT_OPTIONS = ImportOptions()
