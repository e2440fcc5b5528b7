"""The answer of an engine for one file. The types are here so that the command line starts without NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BATCH = 32
"""Above this size a CPU gains nothing, and the first rows would only come later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One class of a prediction; ``index`` is its position in the logits."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most likely classes of one file, best first, or one line with the reason that there are none."""

    file: str
    top: tuple[Answer, ...]
    error: str | None = None

    def as_row(self) -> dict[str, Any]:
        """JSON-ready: ``{"file": …, "top": [{"index": …, "label": …, "probability": …}, …], "error": …}``."""
        top = [{"index": a.index, "label": a.label, "probability": a.probability} for a in self.top]
        return {"file": self.file, "top": top, "error": self.error}
