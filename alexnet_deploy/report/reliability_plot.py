"""The reliability diagram as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, Quality
from alexnet_deploy.files import atomic_file


def plot_reliability(record: ConfidenceRecord, path: Path) -> None:
    """Accuracy over confidence before and after the fit, with the share of images below; written atomically.

    The suffix of ``path`` decides the format: .png, .svg or .pdf.
    """
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    sides = (("uncalibrated", record.before), (f"temperature {record.temperature:.3g}", record.after))
    for column, (title, quality) in enumerate(sides):
        _draw(axes[0, column], axes[1, column], quality, record.images)
        axes[0, column].set_title(f"{title}: ECE {quality.ece_percent:.1f} %, NLL {quality.nll_nats:.3f}")
        axes[1, column].set_xlabel("confidence, %")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[0, 0].legend(loc="upper left")
    axes[1, 0].set_ylabel("images, %")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _draw(upper: Axes, lower: Axes, quality: Quality, images: int) -> None:
    lefts, widths = [100 * row.low for row in quality.bins], [100 * (row.high - row.low) for row in quality.bins]
    accuracies = [row.accuracy_percent or 0.0 for row in quality.bins]
    confidences = [row.confidence_percent or 0.0 for row in quality.bins]
    upper.bar(lefts, accuracies, widths, align="edge", edgecolor="white", label="accuracy")
    # An empty bin has both at 0: a line without length.
    upper.vlines(confidences, accuracies, confidences, color="firebrick", linewidth=2, label="gap to confidence")
    upper.plot((0, 100), (0, 100), color="black", linewidth=0.8, linestyle="--", label="as it should be")
    upper.set(xlim=(0, 100), ylim=(0, 100))
    shares = [100 * row.images / images for row in quality.bins]
    lower.bar(lefts, shares, widths, align="edge", edgecolor="white", color="grey")
