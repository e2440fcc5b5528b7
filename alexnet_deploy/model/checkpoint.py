"""Checkpoints: safetensors with architecture, contract and recipe; weights of other tools are read here as well.

No code from a file is ever run: safetensors holds none, and ``weights_file`` reads the pickles of other tools without.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from alexnet_deploy.adoption.labels import read_labels
from alexnet_deploy.contract import METADATA_KEY, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, UsageError
from alexnet_deploy.files import atomic_file, open_regular, sha256_of
from alexnet_deploy.model.architecture import (
    INPUT_SIDE,
    AlexNet,
    Architecture,
    architecture_from_dict,
    get_architecture,
)
from alexnet_deploy.model.state_dict import StateDict, find_state_dict, fit_architecture
from alexnet_deploy.model.weights.download import expected_prefix, fetch
from alexnet_deploy.model.weights.safetensors_file import is_safetensors, open_safetensors, tensors_in
from alexnet_deploy.model.weights.weights_file import read_weights_file
from alexnet_deploy.progress import Progress, no_progress

_IMAGENET_CLASSES = 1000
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
    notes: tuple[str, ...] = ()
    """What was found in a file of another tool and assumed about it, one sentence each, for people."""

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
        with open_safetensors(path) as (metadata, file):
            weights = tensors_in(file)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such checkpoint; check the path, or train one") from exc
    except (ValueError, OSError) as exc:
        cause = getattr(exc, "strerror", None) or exc
        raise ArtifactError(f"{path}: is not a readable safetensors file ({cause}); copy or train it again") from exc
    if METADATA_KEY not in metadata or ARCHITECTURE_KEY not in metadata:
        raise InputError(f"{path}: has no alexnet-deploy contract; export it to ONNX, and pass that")
    contract = ModelContract.from_json(metadata[METADATA_KEY], source=str(path))
    try:
        raw_arch = msgspec.json.decode(metadata[ARCHITECTURE_KEY])
        recipe = msgspec.json.decode(metadata.get(RECIPE_KEY, "{}"), type=dict[str, Any])
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: its metadata is damaged ({exc}); copy or train it again") from exc
    checkpoint = Checkpoint(architecture_from_dict(raw_arch, source=str(path)), contract, weights, recipe)
    return check_weights(checkpoint, path)


def shipped_checkpoint() -> Path:
    """The trained checkpoint inside this package."""
    return Path(str(resources.files("alexnet_deploy") / "data" / "alexnet.safetensors"))


def load_foreign(
    path: Path,
    architecture: str | None = None,
    *,
    labels: str | Path | None = None,
    ema: bool = True,
) -> Checkpoint:
    """AlexNet's weights in a file of another tool; parameters and errors are those of ``load_weights``.

    Its preprocessing is not in the file: torchvision's is assumed.
    """
    source = str(path)
    found = find_state_dict(read_weights_file(path), source=source, ema=ema)
    arch = fit_architecture(found.weights, architecture, source=source)
    classes = arch.num_classes
    is_imagenet = labels is None and classes == _IMAGENET_CLASSES
    class_ids, names = read_labels("imagenet1k" if is_imagenet else labels, classes)
    contract = ModelContract(arch.name, names, class_ids, Preprocessing())
    types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in found.weights.values()}))
    recipe = {"source": path.name, "state_dict": found.wrapper, "prefix": found.prefix, "dtype": types}
    notes = _notes(found, arch, types, labels, is_imagenet=is_imagenet)
    return check_weights(Checkpoint(arch, contract, found.weights, recipe, notes), path)


def _notes(
    found: StateDict, arch: Architecture, types: str, labels: str | Path | None, *, is_imagenet: bool
) -> tuple[str, ...]:
    """What was found in a file of another tool, and what it does not say."""
    averaged = ", averaged weights" if found.averaged else ""
    notes = [f"weights: {found.where()}{averaged}, {types}, {arch.num_classes} classes; their shapes are {arch.name}'s"]
    if found.note:
        notes.append(found.note)
    if is_imagenet:
        notes.append("labels: ImageNet-1k's, as the file names none; give `labels` if they are others")
    elif labels is None:
        notes.append(f"labels: the numbers 0 to {arch.num_classes - 1}, as the file names none; give `labels`")
    notes.append("preprocessing: torchvision's (shorter side to 256, crop of 224), as the file states none")
    return tuple(notes)


def check_weights(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """``checkpoint``, if names, shapes and values of its weights are right; InputError for a wrong file."""
    with torch.device("meta"):
        expected = {key: tuple(v.shape) for key, v in AlexNet(checkpoint.arch).state_dict().items()}
    found = {key: tuple(v.shape) for key, v in checkpoint.weights.items()}
    if found != expected:
        key = next(k for k in (expected | found) if expected.get(k) != found.get(k))
        raise InputError(
            f"{path}: does not fit {checkpoint.arch.name} with {checkpoint.arch.num_classes} classes: {key} is "
            f"{found.get(key, 'absent')}, expected {expected.get(key, 'absent')}; train it again"
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
    # As float32, the type of the built model: a float64 of 1e300 is infinite there.
    bad = next((key for key, v in checkpoint.weights.items() if not torch.isfinite(v.float()).all()), None)
    if bad is not None:
        raise InputError(f"{path}: {bad} holds NaN or infinity; use an earlier checkpoint")
    return checkpoint


def load_weights(
    weights: str | Path | None,
    architecture: str | None = None,
    *,
    labels: str | Path | None = None,
    ema: bool = True,
    allow_http: bool = False,
    on_progress: Progress = no_progress,
) -> Checkpoint:
    """Load our own safetensors, weights of another tool (path or URL), ``imagenet1k``, or the shipped ones (None).

    Of another tool: a state dict in PyTorch's formats or safetensors, also wrapped (``state_dict``, ``model``) or with
    prefixes (``module.``, ``_orig_mod.``). ``architecture`` follows from the shapes; one that is given must fit.
    ``labels`` is a file with a label per class, or ``imagenet1k``; None: ImageNet-1k's for 1000 classes, else numbers.
    ``ema`` prefers averaged weights where the file has both. ``Checkpoint.notes`` says what was found and assumed.
    The SHA-256 prefix in a published file's name (torch hub's convention) is verified. ``allow_http``: see ``fetch``.

    Raises InputError for a file that cannot be used, ArtifactError for one of ours that is damaged or a wrong hash, and
    UsageError where ``architecture`` or ``labels`` contradict the file.
    """
    get_architecture(architecture or "alexnet")  # an unknown one is refused before any download
    source = IMAGENET1K_URL if weights == "imagenet1k" else str(shipped_checkpoint() if weights is None else weights)
    path = local_weights(source, allow_http=allow_http, on_progress=on_progress)
    if is_ours(path):
        checkpoint = load_checkpoint(path)
        if architecture not in (None, checkpoint.arch.name):
            raise UsageError(f"`architecture` {architecture}: {path} holds {checkpoint.arch.name}; leave it out")
        if labels is not None:
            raise UsageError(f"`labels` {labels}: {path} holds its own labels; leave it out")
        return checkpoint
    checkpoint = load_foreign(path, architecture, labels=labels, ema=ema)
    # Of torchvision's own file nothing has to be assumed.
    return dataclasses.replace(checkpoint, notes=()) if source == IMAGENET1K_URL else checkpoint


def local_weights(source: str, *, allow_http: bool = False, on_progress: Progress = no_progress) -> Path:
    """The file at the path or URL ``source``; the SHA-256 prefix in its name, if it has one, is verified.

    Raises the errors of ``fetch``, and ArtifactError for a wrong hash.
    """
    path = fetch(source, allow_http=allow_http, on_progress=on_progress) if "://" in source else Path(source)
    prefix = expected_prefix(path.name)
    if prefix is not None and path.is_file() and not (found := sha256_of(path)).startswith(prefix):
        raise ArtifactError(
            f"{path}: SHA-256 starts with {found[: len(prefix)]}, its name has {prefix}; "
            "download it again, or rename it if that is not a hash"
        )
    return path


def is_ours(path: Path) -> bool:
    """Whether a file is safetensors with a contract; one that cannot be read is not."""
    try:
        with open_regular(path) as stream:
            if not is_safetensors(stream.read(16), path.stat().st_size):
                return False
        with open_safetensors(path) as (metadata, _):
            return METADATA_KEY in metadata or ARCHITECTURE_KEY in metadata
    except (OSError, ValueError):
        return False
