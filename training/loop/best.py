"""The best epoch of a run, and when to stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.loop.run import EpochMetrics, Run


def best_epoch(rows: Sequence[EpochMetrics], run: Run) -> EpochMetrics | None:
    """The validated epoch with the highest accuracy; of equals the one with the lowest loss, then the first.

    The accuracy is top-1 or, where the recipe balances the classes, its mean over them.
    """
    validated = [row for row in rows if row.val_top1_percent is not None]
    return max(validated, key=lambda row: _score(row, run), default=None)


def stops_early(rows: Sequence[EpochMetrics], run: Run) -> bool:
    """Whether ``run.early_stop`` epochs have passed since the best one, with a validation in the last."""
    best = best_epoch(rows, run)
    if run.early_stop is None or best is None or rows[-1].val_top1_percent is None:
        return False
    return rows[-1].epoch - best.epoch >= run.early_stop


def _score(row: EpochMetrics, run: Run) -> tuple[float, float]:
    accuracy = row.val_class_mean_percent if run.recipe.balance != "none" else row.val_top1_percent
    return accuracy or 0.0, -math.inf if row.val_loss is None else -row.val_loss
