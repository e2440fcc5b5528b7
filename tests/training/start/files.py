"""Small trained weights in the layouts of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint

SMALL = get_architecture("alexnet", num_classes=3, hidden=8)
"""The convolutions of ``alexnet``, by which a file of another tool is recognised, and 8 hidden units: 10 MiB."""
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True, "size": {"shortest_edge": 240}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
}  # fmt: skip


def small_weights(seed: int = 0, rank: int | None = None) -> dict[str, Tensor]:
    """Weights of ``SMALL``, random but the same in every run."""
    torch.manual_seed(seed)
    model = AlexNet(get_architecture("alexnet", num_classes=3, hidden=8, dense_rank=rank))
    initialise(model, "kaiming")
    return {key: value.detach() for key, value in model.state_dict().items()}


def small_checkpoint(*class_ids: str, seed: int = 0) -> Checkpoint:
    """A checkpoint of ours with three classes."""
    labels = tuple(f"the {class_id}" for class_id in class_ids)
    pre = Preprocessing(resize="stretch", resize_to=None, std=(0.25, 0.25, 0.25))
    return Checkpoint(SMALL, ModelContract("alexnet", labels, class_ids, pre), small_weights(seed))


def below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with a prefix before each name."""
    return {prefix + key: value for key, value in weights.items()}


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As timm's VGG has them: the hidden layers are convolutions of 6 x 6 and 1 x 1."""
    named = {key: value for key, value in weights.items() if key.startswith("features.")}
    for layer, name, side in (("classifier.1", "pre_logits.fc1", 6), ("classifier.4", "pre_logits.fc2", 1)):
        weight = weights[f"{layer}.weight"]
        named[f"{name}.weight"] = weight.reshape(len(weight), -1, side, side)
        named[f"{name}.bias"] = weights[f"{layer}.bias"]
    return named | {f"head.fc.{kind}": weights[f"classifier.6.{kind}"] for kind in ("weight", "bias")}


def transformers_names(weights: dict[str, Tensor], *, all_dense: bool = False) -> dict[str, Tensor]:
    """A base model ``alexnet`` with the last layer, or all dense ones, beside it."""
    outside = "classifier." if all_dense else "classifier.6."
    named = {f"alexnet.{key}": value for key, value in weights.items() if not key.startswith(outside)}
    for key, value in weights.items():
        if key.startswith(outside):
            named[key if all_dense else f"classifier.{key.removeprefix(outside)}"] = value
    return named


def hub_folder(folder: Path, weights: dict[str, Tensor], *labels: str, pickled: bool = False) -> Path:
    """A folder of the hub that transformers could have written."""
    folder.mkdir()
    config: dict[str, Any] = {"model_type": "alexnet", "id2label": {str(k): label for k, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
