"""A checkpoint small enough to ship: float16 weights, with the accuracy that these very weights reach."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from training.evaluate import evaluate_checkpoint
from training.listing import list_held
from training.target import check_target


def pack(source: Path, out: Path, data: Path, *, labels: Path | None = None, workers: int) -> dict[str, Any]:
    """Store ``source`` as float16 in ``out``; return (and record in its recipe) the accuracy on ``data``.

    ``data`` and ``labels`` are as for ``list_held``, ``out`` as for ``check_target``. Raises InputError for a weight
    beyond float16's range, with ``out`` as it was.
    """
    check_target("OUTPUT", out, source)
    checkpoint = load_checkpoint(source)
    images = list_held(data, checkpoint.contract.class_ids, labels)
    weights = {key: value.half() for key, value in checkpoint.weights.items()}
    overflown = next((key for key, value in weights.items() if not torch.isfinite(value).all()), None)
    if overflown is not None:
        raise InputError(f"{source}: {overflown} exceeds float16's 65504; ship the float32 checkpoint")
    packed = dataclasses.replace(checkpoint, weights=weights)
    result = evaluate_checkpoint(packed, images, workers=workers)
    save_checkpoint(dataclasses.replace(packed, recipe=checkpoint.recipe | {"evaluation": result}), out)
    return result
