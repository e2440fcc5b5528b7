"""Charts as files, drawn through matplotlib's objects only: no display, no state shared with another chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.files import atomic_file

if TYPE_CHECKING:
    from alexnet_deploy.sensitivity.layers import Diagnosis  # it loads ONNX Runtime

FORMATS = (".png", ".svg", ".pdf")
_INCHES_PER_LAYER = 0.35
_MAX_INCHES = 60  # 160 layers; few programs open a taller picture


def plot_diagnosis(diagnosis: Diagnosis, path: Path) -> None:
    """Draw the cost of each layer alone and the gain of restoring it, the worst on top; written atomically.

    The suffix of ``path`` is one of ``FORMATS``.
    """
    rows = diagnosis.layers[::-1]  # axes count upwards
    figure = Figure(figsize=(8, min(1.6 + _INCHES_PER_LAYER * len(rows), _MAX_INCHES)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    alone, regained = [row.alone.kl_nats for row in rows], [diagnosis.regained_nats(row) for row in rows]
    axes.barh([y + 0.2 for y in places], alone, 0.4, label=f"{diagnosis.precision} alone: costs")
    axes.barh([y - 0.2 for y in places], regained, 0.4, label="float alone: regains")
    axes.set_yticks(places, [row.layer for row in rows])
    axes.set_xlabel(f"KL from float32, nats per image (all layers: {diagnosis.everything.kl_nats:.3g})")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.legend()
    _save(figure, path)


def plot_reliability(record: ConfidenceRecord, path: Path) -> None:
    """Draw accuracy over confidence before and after the fit, with the share of images below; written atomically.

    The suffix of ``path`` is one of ``FORMATS``.
    """
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    sides = (("uncalibrated", record.before), (f"{record.method}, temperature {record.temperature:.3g}", record.after))
    for column, (title, quality) in enumerate(sides):
        _draw_reliability(axes[0, column], axes[1, column], quality, record.images)
        axes[0, column].set_title(f"{title}: ECE {quality.ece_percent:.1f} %, NLL {quality.nll_nats:.3f}")
        axes[1, column].set_xlabel("confidence, %")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[0, 0].legend(loc="upper left")
    axes[1, 0].set_ylabel("images, %")
    _save(figure, path)


def _draw_reliability(upper: Axes, lower: Axes, quality: Quality, images: int) -> None:
    lefts, widths = [100 * row.low for row in quality.bins], [100 * (row.high - row.low) for row in quality.bins]
    accuracies = [row.accuracy_percent or 0.0 for row in quality.bins]
    confidences = [row.confidence_percent or 0.0 for row in quality.bins]
    upper.bar(lefts, accuracies, widths, align="edge", edgecolor="white", label="accuracy")
    # In an empty bin both are 0: a line without length.
    upper.vlines(confidences, accuracies, confidences, color="firebrick", linewidth=2, label="gap to confidence")
    upper.plot((0, 100), (0, 100), color="black", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    upper.set(xlim=(0, 100), ylim=(0, 100))
    shares = [100 * row.images / images for row in quality.bins]
    lower.bar(lefts, shares, widths, align="edge", edgecolor="white", color="grey")


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
