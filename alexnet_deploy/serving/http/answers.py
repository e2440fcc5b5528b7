"""The rows of ``/classify``: those that ``infer`` writes for the same files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.predict import PixelBatch, predictions_of
from alexnet_deploy.serving.engines.engine import Result, ServedEngine

_NO_PIXELS = np.empty(0, np.uint8)


def rows_of(
    names: Sequence[str], result: Result, engine: ServedEngine, top_k: int, threshold: float | None
) -> list[dict[str, Any]]:
    """One row per image, in order: ``Prediction.as_row`` of ``names``."""
    files = tuple(Source(name, _unread) for name in names)
    batch = PixelBatch(files, result.errors, _NO_PIXELS)
    logits_NK = result.logits_NK if len(result.logits_NK) else None
    return [prediction.as_row() for prediction in predictions_of(batch, logits_NK, engine.contract, top_k, threshold)]


def _unread() -> bytes:
    raise AssertionError("the images were decoded before")
