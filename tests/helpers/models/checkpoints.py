"""Checkpoints with random weights, the same in every run."""

from __future__ import annotations

from typing import Any

import torch

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint
from tests.helpers.photos import CLASSES


def random_checkpoint(**switches: Any) -> Checkpoint:
    """``alexnet`` with 3 classes; ``switches`` are fields of its architecture. The caller's random state stays."""
    arch = get_architecture("alexnet", num_classes=len(CLASSES), **switches)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = AlexNet(arch)
        initialise(model, "kaiming")
    contract = ModelContract("alexnet", ("red", "green", "blue"), tuple(CLASSES))
    return Checkpoint(arch, contract, dict(model.state_dict()), {"source": "random"})
