"""Teachers of the classes of ``photo_folder``, tiny and random: what they answer matters, not whether it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.models.tiny_runs import TINY
from tests.helpers.photos import CLASSES

MakeTeacher = Callable[..., Path]


@pytest.fixture
def teacher(tmp_path: Path) -> MakeTeacher:
    """``teacher(seed=0, class_ids=...)`` saves one and returns its path."""

    def make(seed: int = 0, class_ids: tuple[str, ...] = tuple(CLASSES)) -> Path:
        arch = get_architecture("alexnet", num_classes=len(class_ids), **TINY)
        torch.manual_seed(seed)
        model = AlexNet(arch)
        initialise(model, "kaiming")
        with torch.no_grad():
            model.classifier[6].weight.mul_(30)  # answers that differ from photo to photo
        contract = ModelContract("alexnet", class_ids, class_ids)
        name = f"teacher-{seed}-{len(class_ids)}-{class_ids[0]}.safetensors"
        return save_checkpoint(Checkpoint(arch, contract, model.state_dict()), tmp_path / name)

    return make


def reordered(checkpoint: Checkpoint, order: list[int]) -> Checkpoint:
    """The same network with its classes in another order."""
    contract = dataclasses.replace(
        checkpoint.contract,
        labels=tuple(checkpoint.contract.labels[i] for i in order),
        class_ids=tuple(checkpoint.contract.class_ids[i] for i in order),
    )
    last = {f"classifier.6.{kind}": checkpoint.weights[f"classifier.6.{kind}"][order] for kind in ("weight", "bias")}
    return dataclasses.replace(checkpoint, contract=contract, weights=checkpoint.weights | last)
