"""Size, accuracy and latency by rank, before any fine-tuning, to choose a rank."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.model.export import export_onnx
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.select import open_runner
from training.compress.low_rank import count_weights
from training.data.lists.listing import ImageList
from training.results.evaluate import evaluate_checkpoint

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
    """Median latency of one image, from pixels to logits; float32 weights in OpenVINO."""
    runtime: str


def measure_checkpoint(checkpoint: Checkpoint, images: ImageList, *, workers: int, duration_s: float) -> RankRow:
    """Measure the accuracy on ``images`` and the latency of the exported model."""
    pre = checkpoint.contract.preprocessing
    chosen = np.linspace(0, len(images.files) - 1, min(PARITY_IMAGES, len(images.files)), dtype=int)
    pixels_NHWC = np.stack([load_pixels(images.files[i], pre) for i in chosen])
    summary = checkpoint.recipe.get("compressed", {})
    top1_percent = evaluate_checkpoint(checkpoint, images, workers=workers)["top1_percent"]
    batch1_ms, runtime = _latency(checkpoint, pixels_NHWC, duration_s)
    count = count_weights(checkpoint.arch)
    return RankRow(
        rank=checkpoint.arch.dense_rank,
        parameters=count,
        float16_mib=round(2 * count / 2**20, 2),
        energy_kept=min(summary["energy_kept"].values()) if summary else None,
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
