"""A checkpoint small enough to ship: float16 weights, with the accuracy measured on these weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from training.data.listing import list_val_images
from training.evaluate import evaluate_checkpoint
from training.output import check_output


def pack(
    checkpoint: Path, output: Path, data: Path, *, val_labels: Path | None = None, workers: int = 2
) -> dict[str, Any]:
    """Store ``checkpoint`` as float16 in ``output``; return its accuracy on ``data``, which its recipe records.

    ``data`` and ``val_labels`` are as for ``list_val_images``. Raises InputError for a weight beyond float16's range,
    and the errors of ``check_output``, with ``output`` unchanged.
    """
    check_output(output, checkpoint)
    loaded = load_checkpoint(checkpoint)
    images = list_val_images(data, loaded.contract.class_ids, val_labels)
    weights = {key: value.half() for key, value in loaded.weights.items()}
    overflown = next((key for key, value in weights.items() if not torch.isfinite(value).all()), None)
    if overflown is not None:
        raise InputError(f"{checkpoint}: {overflown} exceeds float16's 65504; ship the float32 checkpoint")
    packed = dataclasses.replace(loaded, weights=weights)
    result = evaluate_checkpoint(packed, images, workers=workers)
    save_checkpoint(dataclasses.replace(packed, recipe=loaded.recipe | {"evaluation": result}), output)
    return result
