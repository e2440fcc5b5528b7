"""Checkpoints: safetensors with architecture, contract and recipe; published .pth files are read here as well.

Nothing is ever unpickled: safetensors holds no code, and a .pth file is read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alexnet_deploy.contract import METADATA_KEY, ModelContract, Preprocessing, imagenet1k_classes
from alexnet_deploy.errors import ArtifactError, InputError, UsageError, one_line
from alexnet_deploy.files import atomic_file, sha256_of
from alexnet_deploy.model.architecture import (
    INPUT_SIDE,
    AlexNet,
    Architecture,
    architecture_from_dict,
    get_architecture,
)
from alexnet_deploy.model.download import expected_prefix, fetch
from alexnet_deploy.progress import Progress, no_progress

ARCHITECTURE_KEY = "alexnet_deploy.architecture"
RECIPE_KEY = "alexnet_deploy.recipe"
_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

IMAGENET1K_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet_Weights.IMAGENET1K_V1: 56.522 top-1, 79.066 top-5 on ImageNet-1k."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights with everything needed to use them; ``recipe`` records how they were made, for people."""

    arch: Architecture
    contract: ModelContract
    weights: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)

    def build(self) -> AlexNet:
        """The module in eval mode with float32 weights."""
        with torch.device("meta"):
            model = AlexNet(self.arch)
        model.load_state_dict({k: v.float() for k, v in self.weights.items()}, assign=True)
        return model.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> Path:
    """Write safetensors with the contract, architecture and recipe in its metadata, atomically.

    Raises UnavailableError when the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    metadata = {
        METADATA_KEY: checkpoint.contract.to_json(),
        ARCHITECTURE_KEY: json.dumps(checkpoint.arch.to_dict()),
        RECIPE_KEY: json.dumps(checkpoint.recipe),
    }
    write_tensors(checkpoint.weights, path, metadata)
    return path


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; UnavailableError as ``save_checkpoint``."""
    with atomic_file(path) as temporary:
        try:
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, temporary, metadata)
        except SafetensorError as exc:
            # A full disk also raises this type, with the system's error only in the text.
            found = re.search(r"\(os error (\d+)\)", str(exc))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from exc
        # safetensors lets only the owner read its files; like any other file, it should follow the umask.
        temporary.chmod(temporary.parent.stat().st_mode & 0o666)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of ``save_checkpoint``; InputError or ArtifactError if it cannot be used."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such checkpoint; check the path, or train one") from exc
    except (SafetensorError, OSError) as exc:
        raise ArtifactError(f"{path}: is not a readable safetensors file ({exc}); copy or train it again") from exc
    if METADATA_KEY not in metadata or ARCHITECTURE_KEY not in metadata:
        raise InputError(f"{path}: has no alexnet-deploy contract; export it to ONNX with its own tool and pass that")
    contract = ModelContract.from_json(metadata[METADATA_KEY], source=str(path))
    try:
        raw_arch = msgspec.json.decode(metadata[ARCHITECTURE_KEY])
        recipe = msgspec.json.decode(metadata.get(RECIPE_KEY, "{}"), type=dict[str, Any])
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: its metadata is damaged ({exc}); copy or train it again") from exc
    checkpoint = Checkpoint(architecture_from_dict(raw_arch, source=str(path)), contract, weights, recipe)
    return _checked(checkpoint, path)


def shipped_checkpoint() -> Path:
    """The trained checkpoint inside this package."""
    return Path(str(resources.files("alexnet_deploy") / "data" / "alexnet.safetensors"))


def load_published(path: Path, arch: Architecture, contract: ModelContract) -> Checkpoint:
    """A state dict from a .pth file (torchvision's, or the review code's), checked against ``arch``."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check `weights`") from exc
    except Exception as exc:  # torch's reader raises almost anything on a damaged or hostile file
        # For a pickle that it refuses, torch's message explains how to load it anyway.
        refused = isinstance(exc, pickle.UnpicklingError)
        reason = "it holds more than tensors" if refused else one_line(exc, 160)
        raise InputError(
            f"{path}: is not a plain state dict of tensors ({reason}); save model.state_dict() alone"
        ) from exc
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise InputError(f"{path}: is not a plain state dict of tensors; save model.state_dict() alone")
    return _checked(Checkpoint(arch, contract, weights, {"source": path.name}), path)


def _checked(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """``checkpoint``, if names, shapes and values of its weights are right; InputError for a wrong file."""
    with torch.device("meta"):
        expected = {key: tuple(v.shape) for key, v in AlexNet(checkpoint.arch).state_dict().items()}
    found = {key: tuple(v.shape) for key, v in checkpoint.weights.items()}
    if found != expected:
        key = next(k for k in (expected | found) if expected.get(k) != found.get(k))
        raise InputError(
            f"{path}: does not fit {checkpoint.arch.name} with {checkpoint.arch.num_classes} classes: {key} is "
            f"{found.get(key, 'absent')}, expected {expected.get(key, 'absent')}; check `architecture`"
        )
    if len(checkpoint.contract.labels) != checkpoint.arch.num_classes:
        raise InputError(
            f"{path}: has {len(checkpoint.contract.labels)} labels for {checkpoint.arch.num_classes} outputs; "
            "train it again"
        )
    pre = checkpoint.contract.preprocessing
    if (pre.height, pre.width) != (INPUT_SIDE, INPUT_SIDE):
        raise InputError(
            f"{path}: its contract has {pre.height} x {pre.width} pixels, AlexNet needs {INPUT_SIDE} x {INPUT_SIDE}; "
            "train it again"
        )
    for key, value in checkpoint.weights.items():
        if value.dtype not in _WEIGHT_TYPES or value.layout != torch.strided or value.device.type != "cpu":
            raise InputError(f"{path}: {key} is {value.dtype}, {value.layout}; save dense float weights")
    bad = next((key for key, v in checkpoint.weights.items() if not torch.isfinite(v).all()), None)
    if bad is not None:
        raise InputError(f"{path}: {bad} holds NaN or infinity; use an earlier checkpoint")
    return checkpoint


def imagenet1k_contract(architecture: str) -> ModelContract:
    """ImageNet-1k's classes with torchvision's published preprocessing (resize 256, crop 224)."""
    class_ids, labels = imagenet1k_classes()
    return ModelContract(architecture, labels, class_ids, Preprocessing())


def load_weights(
    weights: str | Path | None, architecture: str | None = None, *, on_progress: Progress = no_progress
) -> Checkpoint:
    """Load our own safetensors, a .pth, a URL of one, ``imagenet1k``, or the shipped checkpoint (None).

    A .pth file is read as ``architecture`` (default ``alexnet``) on ImageNet-1k's classes. The SHA-256 prefix in a
    published file's name (torch hub's convention) is verified for local files as well. Our own checkpoints hold their
    architecture: another one is a UsageError.
    """
    arch = get_architecture(architecture or "alexnet")
    source = IMAGENET1K_URL if weights == "imagenet1k" else str(weights or shipped_checkpoint())
    path = fetch(source, on_progress=on_progress) if "://" in source else Path(source)
    if path.suffix == ".safetensors":
        if not path.exists():
            raise InputError(f"{path}: no such checkpoint; train one, or leave `weights` out for the shipped one")
        checkpoint = load_checkpoint(path)
        if architecture not in (None, checkpoint.arch.name):
            raise UsageError(f"`architecture` {architecture}: {path} holds {checkpoint.arch.name}; leave it out")
        return checkpoint
    _check_prefix(path)
    return load_published(path, arch, imagenet1k_contract(arch.name))


def _check_prefix(path: Path) -> None:
    prefix = expected_prefix(path.name)
    if prefix is not None and path.is_file() and not (found := sha256_of(path)).startswith(prefix):
        raise ArtifactError(
            f"{path}: SHA-256 starts with {found[: len(prefix)]}, its name has {prefix}; "
            "download it again, or rename it if that is not a hash"
        )
