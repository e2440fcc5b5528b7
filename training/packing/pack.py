"""A checkpoint to ship: float16 weights with their accuracy, a folder of the Hugging Face hub, or both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data.lists.listing import list_val_images
from training.data.preflight import readable_part
from training.output import check_output
from training.packing.calibration import calibrated_as, images_of_the_fit
from training.packing.hf_folder import check_hf_folder, write_hf_folder
from training.packing.scale import EVALUATION, at_scale
from training.results.evaluate import evaluate_checkpoint


def pack(
    checkpoint: Path,
    output: Path | None,
    data: Path | None,
    *,
    hf: Path | None = None,
    val_labels: Path | None = None,
    resize_to: int | None = None,
    calibration: Path | None = None,
    allow_unreadable: bool = False,
    workers: int = 2,
) -> dict[str, Any] | None:
    """Store ``checkpoint`` as float16 in ``output``, and as the folder ``hf``; return its accuracy on ``data``.

    The recipe of ``output`` records the accuracy, and the folder's card states it. With ``calibration`` it also counts
    the ``calibration_images``: those of ``data`` on which that was fitted. Without ``output`` the folder has
    the weights as they are, and ``data`` may be None: then nothing is measured. ``data`` and ``val_labels`` are as for
    ``list_val_images``, ``resize_to`` as for ``at_scale``, ``calibration`` as for ``calibrated_as``. With
    ``allow_unreadable`` files of ``data`` that cannot be read are left out, and the result counts them.

    Raises InputError for a weight beyond float16's range, and the errors of ``check_output``, ``check_hf_folder``,
    ``at_scale`` and ``calibrated_as``, with both outputs unchanged.
    """
    if output is None and hf is None:
        raise UsageError("`output`: is missing; name the float16 checkpoint to write, or a folder with `hf`")
    if output is not None:
        if data is None:
            raise UsageError("`data`: is missing; give images to measure the float16 weights on")
        check_output(output, checkpoint)
    if hf is not None:
        check_hf_folder(hf)
    packed = calibrated_as(at_scale(load_checkpoint(checkpoint), resize_to), calibration)
    images = None if data is None else list_val_images(data, packed.contract.class_ids, val_labels)
    unreadable: tuple[str, ...] = ()
    if images is not None and allow_unreadable:
        images, unreadable = readable_part(images, threads=max(1, workers))
    if output is not None:
        packed = _in_float16(packed, checkpoint)
    result = None if images is None else evaluate_checkpoint(packed, images, workers=workers)
    if result is not None and unreadable:
        result |= {"unreadable": len(unreadable)}
    if result is not None and images is not None and calibration is not None:
        # NLL and ECE on images of the fit are too good, and whoever reads the result must know.
        result |= {"calibration_images": images_of_the_fit(calibration, images.files)}
    if result is not None:
        packed = dataclasses.replace(packed, recipe=packed.recipe | {EVALUATION: result})
    if output is not None:
        save_checkpoint(packed, output)
    if hf is not None:
        write_hf_folder(packed, hf)
    return result


def _in_float16(loaded: Checkpoint, path: Path) -> Checkpoint:
    weights = {key: value.half() for key, value in loaded.weights.items()}
    overflown = next((key for key, value in weights.items() if not torch.isfinite(value).all()), None)
    if overflown is not None:
        raise InputError(f"{path}: {overflown} exceeds float16's 65504; ship the float32 checkpoint")
    return dataclasses.replace(loaded, weights=weights)
