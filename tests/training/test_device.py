"""Measuring and compressing run where training would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_deploy.model.checkpoint import Checkpoint
from training.compress.low_rank import Spectrum, decompose_hidden_layers
from training.data.listing import list_class_folders
from training.data.loader import eval_batches
from training.evaluate import evaluate_checkpoint
from training.loop.device import pick_device


def taken_apart(checkpoint: Checkpoint, photos: Path) -> dict[str, Spectrum]:
    listing = list_class_folders(photos / "train")
    return decompose_hidden_layers(
        checkpoint, eval_batches(listing, checkpoint.contract.preprocessing, batch=9, workers=0)
    )


def test_the_device_is_asked_for(
    tiny_checkpoint: Checkpoint, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's meta device stands for a GPU: it knows shapes alone, and says so where a value is taken from it."""
    for user in ("evaluate", "compress"):
        monkeypatch.setattr(f"training.{user}.pick_device", lambda: torch.device("meta"))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        evaluate_checkpoint(tiny_checkpoint, list_class_folders(photo_folder / "val"), workers=0)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        taken_apart(tiny_checkpoint, photo_folder)


@pytest.mark.gpu
def test_a_gpu_computes_in_float32_as_a_cpu_does(
    tiny_checkpoint: Checkpoint, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pick_device().type == "cpu":
        pytest.skip("no GPU that torch can use")
    there = taken_apart(tiny_checkpoint, photo_folder)
    monkeypatch.setattr("training.compress.low_rank.pick_device", lambda: torch.device("cpu"))
    for name, one in taken_apart(tiny_checkpoint, photo_folder).items():
        # float32 sums in another order; TF32's 10 bits of mantissa would be off by some 1e-3.
        torch.testing.assert_close(there[name].mean_O, one.mean_O, rtol=1e-4, atol=1e-5)
