"""Charts as files, drawn through matplotlib's objects alone: no display, no state that another chart would inherit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import atomic_file, check_file

if TYPE_CHECKING:
    from alexnet_deploy.sensitivity.layers import Diagnosis  # it loads ONNX Runtime

FORMATS = (".png", ".svg", ".pdf")
_INCHES_A_LAYER = 0.35
_MOST_INCHES = 60  # 160 layers; a taller picture opens nowhere


def check_target(path: Path) -> None:
    """UsageError for a ``--plot`` that tells no format, and what ``check_file`` raises; before the work."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: ends in none of {', '.join(FORMATS)}; choose one")
    check_file(path, "--plot")


def plot_diagnosis(diagnosis: Diagnosis, path: Path) -> None:
    """Bars of what each layer costs alone and what restoring it regains, the worst on top; written atomically."""
    rows = diagnosis.layers[::-1]  # axes count upwards
    figure = Figure(figsize=(8, min(1.6 + _INCHES_A_LAYER * len(rows), _MOST_INCHES)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    alone, regained = [row.alone.kl_nats for row in rows], [diagnosis.regained_nats(row) for row in rows]
    axes.barh([y + 0.2 for y in places], alone, 0.4, label=f"{diagnosis.kind} alone: costs")
    axes.barh([y - 0.2 for y in places], regained, 0.4, label="float alone: regains")
    axes.set_yticks(places, [row.layer for row in rows])
    axes.set_xlabel(f"KL from float32, nats an image (all layers: {diagnosis.everything.kl_nats:.3g})")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
