"""The calibration of a bundle goes back into the checkpoint that it was made from, and so into all its engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import torch

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.confidence.record import read_confidence
from alexnet_deploy.images.identity.shared import image_hashes, shared_images
from alexnet_deploy.model.checkpoint import Checkpoint

CONFIDENCE = "confidence"
"""Key of a checkpoint's recipe under which ``pack`` records where its calibration comes from."""


def calibrated_as(checkpoint: Checkpoint, bundle: Path | None) -> Checkpoint:
    """``checkpoint`` with the calibration that was fitted to ``bundle``; None: as it is.

    The bundle must have the logits of the checkpoint for the same pixels: its classes, preprocessing and weights, as
    they are or rounded to float16. How large a JPEG is decoded may differ: ``export`` sets it for each ONNX. A rule for
    unknown answers stays with the bundle. Raises InputError for another bundle, for one of another precision than
    float32, and for one that nothing was fitted to.
    """
    if bundle is None:
        return checkpoint
    manifest, _ = verify(bundle)
    if manifest.precision != "fp32":
        raise InputError(f"`calibration` {bundle}: is {manifest.precision}; give a float32 bundle of the checkpoint")
    fitted = manifest.contract
    if (what := _what_differs(checkpoint, fitted, bundle)) is not None:
        raise InputError(
            f"`calibration` {bundle}: has {what} than the checkpoint, so its logits are others; export the checkpoint, "
            "build a bundle of it and fit that"
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


def images_of_the_fit(bundle: Path, files: Collection[Path]) -> int:
    """How many of ``files`` the calibration of ``bundle`` was fitted on; 0 where nothing was fitted."""
    record = read_confidence(bundle, verify(bundle)[0].contract)
    return 0 if record is None else len(shared_images(image_hashes(files), record.image_hashes))


def _what_differs(checkpoint: Checkpoint, fitted: ModelContract, bundle: Path) -> str | None:
    """What makes the logits of ``bundle``, whose contract is ``fitted``, differ from those of ``checkpoint``."""
    ours, theirs = (contract.uncalibrated().decoded("full") for contract in (checkpoint.contract, fitted))
    names = [field.name for field in dataclasses.fields(ours)]
    if fields := [name for name in names if getattr(ours, name) != getattr(theirs, name)]:
        return f"another contract ({', '.join(fields)})"
    from onnx.numpy_helper import to_array  # onnx is needed for a calibration alone

    from alexnet_deploy.onnx_graph.onnx_file import load_onnx

    # PixelClassifier, which is exported, holds the network as ``model``. The exporter merges tensors of equal content,
    # and leaves out biases of 0.
    tensor_of = {tensor.name: tensor for tensor in load_onnx(bundle / MODEL).graph.initializer}
    for key, weight in checkpoint.weights.items():
        named = tensor_of.get(f"model.{key}")
        alike = [each for each in tensor_of.values() if tuple(each.dims) == tuple(weight.shape)]
        tensors = (torch.from_numpy(to_array(each).copy()) for each in ([named] if named is not None else alike))
        is_left_out = named is None and not weight.any()
        if not is_left_out and not any(torch.equal(tensor.half(), weight.half()) for tensor in tensors):
            return f"other weights ({key})"
    return None
