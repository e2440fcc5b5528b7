"""The calibration of a bundle goes back into the checkpoint that it was made from, and so into all its engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from alexnet_deploy.bundle.manifest import verify
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.confidence.record import read_confidence
from alexnet_deploy.model.checkpoint import Checkpoint

CONFIDENCE = "confidence"
"""Key of a checkpoint's recipe under which ``pack`` records where its calibration comes from."""


def calibrated_as(checkpoint: Checkpoint, bundle: Path | None) -> Checkpoint:
    """``checkpoint`` with the calibration that was fitted to ``bundle``; None: as it is.

    A rule for unknown answers stays with the bundle. Raises InputError for a bundle of another contract or of another
    precision than float32, and for one that nothing was fitted to.
    """
    if bundle is None:
        return checkpoint
    manifest = verify(bundle)
    if manifest.precision != "fp32":
        raise InputError(f"`calibration` {bundle}: is {manifest.precision}; give a float32 bundle of the checkpoint")
    fitted = manifest.contract
    if fitted.uncalibrated() != checkpoint.contract.uncalibrated():
        raise InputError(
            f"`calibration` {bundle}: has another contract than the checkpoint; build it from the checkpoint"
        )
    record = read_confidence(bundle, fitted)
    if record is None:
        raise InputError(
            f"`calibration` {bundle}: nothing was fitted to it; fit it first: alexnet-deploy calibrate-confidence"
        )
    contract = dataclasses.replace(
        checkpoint.contract, temperature=fitted.temperature, calibration=fitted.calibration, rejection=None
    )
    origin = {
        "method": record.method,
        "images": record.images,
        "images_digest": record.digest(),
        "runtime": record.runtime,
    }
    return dataclasses.replace(checkpoint, contract=contract, recipe=checkpoint.recipe | {CONFIDENCE: origin})
