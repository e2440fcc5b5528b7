"""The answer of an engine for one file. The types are here so that the command line starts without NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from alexnet_deploy.contract import ModelContract

BATCH = 32
"""Above this size a CPU gains nothing, and the first rows would only come later."""
TOP_K = 5
Outputs = Literal["top", "probabilities", "logits"]
"""What a row holds: the most likely classes, or a number for each class."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One class of a prediction; ``index`` is its position in the logits."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class FullOutputs:
    """The classes of rows that have a number for each of them, in the order of the contract."""

    outputs: Literal["probabilities", "logits"]
    class_ids: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, contract: ModelContract, outputs: Outputs) -> Self | None:
        """The classes of ``contract``; None for ``"top"``."""
        return None if outputs == "top" else cls(outputs, contract.class_ids, contract.labels)

    @property
    def columns(self) -> list[str]:
        """Names of the columns in a table with one per class. Class ids are unique; labels need not be."""
        prefix = "logit" if self.outputs == "logits" else "probability"
        return [f"{prefix}_{class_id}" for class_id in self.class_ids]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one file, or one line with the reason that there is none.

    ``top`` are the most likely classes, best first. With other ``outputs`` it is empty, and ``values`` has a number for
    each class, in the order of the contract; None beside an error. ``unknown`` is what the contract's rule says of the
    answer (``ModelContract.rejection``); None beside an error and where there is no rule.
    """

    file: str
    top: tuple[Answer, ...]
    error: str | None = None
    outputs: Outputs = "top"
    values: tuple[float, ...] | None = None
    unknown: bool | None = None

    def as_row(self) -> dict[str, Any]:
        """JSON-ready: ``{"file": …, "top": [{"index": …, "label": …, "probability": …}, …], "error": …,
        "unknown": …}``.

        With other ``outputs``, a key of that name in place of ``"top"``: ``{"file": …, "logits": [1.5, …], …}``.
        """
        if self.outputs != "top":
            values = None if self.values is None else list(self.values)
            return {"file": self.file, self.outputs: values, "error": self.error, "unknown": self.unknown}
        top = [{"index": a.index, "label": a.label, "probability": a.probability} for a in self.top]
        return {"file": self.file, "top": top, "error": self.error, "unknown": self.unknown}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """The prediction that ``as_row`` wrote; that of an earlier version has no ``unknown``."""
        unknown = row.get("unknown")
        if "top" in row:
            answers = tuple(Answer(**answer) for answer in row["top"])
            return cls(row["file"], answers, row["error"], unknown=unknown)
        outputs: Outputs = "logits" if "logits" in row else "probabilities"
        values = row[outputs]
        return cls(row["file"], (), row["error"], outputs, None if values is None else tuple(values), unknown)
