"""The curves of a run as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alexnet_deploy.files import atomic_file
from training.loop.run import EpochMetrics

_MARKED = 40
"""Epochs up to which each has a mark: on a longer curve they would run together."""


def plot_curves(rows: Sequence[EpochMetrics], out: Path) -> Path:
    """Loss, accuracy and learning rate by epoch, as PNG; written atomically."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    loss, top1, rate = figure.subplots(1, 3)
    epochs = [row.epoch for row in rows]
    validated = [row for row in rows if row.val_loss is not None]
    val_epochs = [row.epoch for row in validated]
    # A run of one epoch has no line, only a point.
    marker = "." if len(rows) <= _MARKED else ""
    loss.plot(epochs, [row.train_loss for row in rows], marker=marker, label="training (with dropout and augmentation)")
    loss.plot(val_epochs, [row.val_loss for row in validated], marker=marker, label="validation")
    loss.set_title("cross-entropy")
    loss.legend(fontsize="x-small")
    top1.plot(val_epochs, [row.val_top1_percent for row in validated], color="tab:orange", marker=marker)
    top1.set_title("validation top-1 %")
    rate.plot(epochs, [row.lr for row in rows], color="tab:gray", marker=marker)
    rate.set_title("learning rate")
    for axes in (loss, top1, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": ""})
    return out
