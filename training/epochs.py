"""Which epochs made a checkpoint: one account for the command, the report, the cards and the folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AT_TEST_SCALE = "test_scale"
"""Key of a checkpoint's recipe under which the last epochs, at the scale of inference, are described."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """None: not recorded."""

    kept: int | None = None
    """Whose weights were kept, counted from 1; without those at test scale that followed."""
    trained: int | None = None
    """How many were trained until the run ended, with or without ``planned``; a checkpoint alone does not tell."""
    planned: int | None = None
    chosen: bool = False
    """``kept`` is the best one by the validation images, so their accuracy is a little too high."""
    test_scale: int = 0
    """Epochs at the scale of inference after ``kept``."""
    whole: bool = False
    """The run consists of epochs at that scale alone."""

    def describe(self) -> str:
        """``epoch 4, the best of 7 (20 were planned), then 2 epochs at test scale``; empty where nothing is known."""
        if self.kept is None:
            return "" if self.planned is None else counted(self.planned, "epoch")
        text = f"epoch {self.kept}" + (" at test scale" if self.whole else "")
        if self.chosen:
            text += f", the best of {self.trained}" if self.trained else ", the best by validation"
        if self.planned is not None and self.planned != (self.trained or self.kept):
            text += f" ({self.planned} {'was' if self.planned == 1 else 'were'} planned)"
        if self.test_scale:
            text += f", then {counted(self.test_scale, 'epoch')} at test scale"
        return text


def epochs_of(recipe: Mapping[str, Any], trained: int | None = None) -> Epochs:
    """The account in a checkpoint's ``recipe``; ``trained`` as the run recorded it. Values of other types are unknown.

    With epochs at test scale, ``result`` is that of the last of them, and the one before them is kept beside it.
    """
    last = _dict(recipe.get(AT_TEST_SCALE))
    own = _dict(recipe.get("recipe"))
    result = _dict(last.get("result_before")) if last else _dict(recipe.get("result"))
    return Epochs(
        kept=_count(result.get("epoch")),
        trained=trained or None,
        planned=_count(own.get("epochs")),
        chosen=bool(recipe.get("early_stop")) and trained != 1,
        test_scale=_count(_dict(last.get("recipe")).get("epochs")) or 0,
        whole=own.get("view") == "inference",
    )


def counted(number: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
