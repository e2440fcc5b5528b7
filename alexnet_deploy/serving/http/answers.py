"""What ``/classify`` answers, the rows that ``infer`` writes for the same files, and ``/engines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.batches import PixelBatch
from alexnet_deploy.inference.rows import predictions_of
from alexnet_deploy.serving.engines.engine import Result, ServedEngine
from alexnet_deploy.serving.refusals import BadRequestError

_NO_PIXELS = np.empty(0, np.uint8)


def rows_of(
    names: Sequence[str], result: Result, engine: ServedEngine, top_k: int, threshold: float | None
) -> list[dict[str, Any]]:
    """One row per image, in order: ``Prediction.as_row`` of ``names``."""
    files = tuple(Source(name, _unread) for name in names)
    batch = PixelBatch(files, result.errors, _NO_PIXELS)
    logits_NK = result.logits_NK if len(result.logits_NK) else None
    return [prediction.as_row() for prediction in predictions_of(batch, logits_NK, engine.contract, top_k, threshold)]


def describe_engine(engine: ServedEngine) -> dict[str, Any]:
    """What people want to know about an engine."""
    contract = engine.contract
    features, rejection = contract.features, contract.rejection
    return {
        "name": engine.name,
        "version": engine.version,
        "precision": engine.precision,
        "runtime": engine.description,
        "classes": len(contract.labels),
        "features": None if features is None else {"layer": features.layer, "shape": features.shape},
        "activation": contract.activation,
        "calibrated": contract.is_calibrated,
        "rejection": None if rejection is None else rejection.describe(),
        "preprocessing": contract.preprocessing.describe(),
        "proof": engine.proof,
    }


def require_classes(engine: ServedEngine) -> None:
    """BadRequestError for a feature engine, which has no classes to answer with."""
    if (features := engine.contract.features) is not None:
        raise BadRequestError(
            f"{engine.name}: gives the features of layer {features.layer} and names no class; call "
            f"/v2/models/{engine.name}/infer for them"
        )


def _unread() -> bytes:
    raise AssertionError("the images were decoded before")
