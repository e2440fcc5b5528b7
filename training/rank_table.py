"""Rank against size, accuracy and latency, before any fine-tuning: what to choose a rank by."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.model.export import export_onnx
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.select import open_runner
from training.compress import weight_count
from training.evaluate import evaluate_checkpoint
from training.listing import Listing

PARITY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class RankRow:
    """One checkpoint. ``rank`` and ``energy_kept`` (of the layer that keeps least) are None for the full model."""

    rank: int | None
    parameters: int
    float16_mib: float
    energy_kept: float | None
    top1_percent: float
    batch1_ms: float
    """Median of one call of one image, from pixels to logits; float32 weights in OpenVINO."""
    runtime: str


def measure_row(checkpoint: Checkpoint, images: Listing, *, workers: int, duration_s: float) -> RankRow:
    """Accuracy on ``images``, and the latency of the exported model."""
    pre = checkpoint.contract.preprocessing
    chosen = np.linspace(0, len(images.files) - 1, min(PARITY_IMAGES, len(images.files)), dtype=int)
    pixels_NHWC = np.stack([load_pixels(images.files[i], pre) for i in chosen])
    told = checkpoint.recipe.get("compressed", {})
    top1_percent = evaluate_checkpoint(checkpoint, images, workers=workers)["top1_percent"]
    batch1_ms, runtime = _latency(checkpoint, pixels_NHWC, duration_s)
    count = weight_count(checkpoint)
    return RankRow(
        rank=checkpoint.arch.dense_rank,
        parameters=count,
        float16_mib=round(2 * count / 2**20, 2),
        energy_kept=min(told["energy_kept"].values()) if told else None,
        top1_percent=top1_percent,
        batch1_ms=round(batch1_ms, 3),
        runtime=runtime,
    )


def _latency(checkpoint: Checkpoint, pixels_NHWC: NDArray[np.uint8], duration_s: float) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(checkpoint, path, pixels_NHWC=pixels_NHWC)
        engine = Engine(path.name, path, checkpoint.contract, "fp32", None)
        with contextlib.closing(open_runner(engine, "openvino").runner) as runner:
            measured = measure(runner, duration_s=duration_s)
    return measured.median_ms, measured.description


def table_of(rows: Sequence[RankRow]) -> Table:
    """The rows for people; the first is the full model, whose weights the others are compared with."""
    full = rows[0]
    table = Table(title=f"Rank without fine-tuning, {full.runtime}", title_justify="left")
    for heading in ("rank", "parameters", "of full", "MiB float16", "energy kept", "top-1", "batch 1"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            "full" if row.rank is None else str(row.rank),
            f"{row.parameters:,}",
            f"{100 * row.parameters / full.parameters:.1f} %",
            f"{row.float16_mib:.2f}",
            "" if row.energy_kept is None else f"{100 * row.energy_kept:.2f} %",
            f"{row.top1_percent:.2f} %",
            f"{row.batch1_ms:.2f} ms",
        )
    return table
