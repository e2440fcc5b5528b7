"""Trained weights to begin with, from a name, a file, an address or a folder.

    shipped, imagenet1k          this package's checkpoint; torchvision's published one, downloaded and verified once
    FILE or https://...          a checkpoint of ours, or AlexNet's weights as other tools save them (model/state_dict)
    a run's folder               its checkpoint.safetensors
    a folder with config.json    as ``pack --hf`` and transformers write it

Other tools' files may lack the last layer or all dense layers, and hold more beside AlexNet: what they lack is drawn
anew, what is beside is left over. No code of a file is ever run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_deploy.adoption.labels import read_labels
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import DeployError, InputError
from alexnet_deploy.model.architecture import FAMILY, FEATURE_SIDE, Architecture
from alexnet_deploy.model.checkpoint import (
    IMAGENET1K_URL,
    Checkpoint,
    check_weights,
    is_ours,
    load_checkpoint,
    local_weights,
    shipped_checkpoint,
)
from alexnet_deploy.model.state_dict import find_state_dict, fit_architecture
from alexnet_deploy.model.weights.download import shown_url
from alexnet_deploy.model.weights.weights_file import OTHER_TOOL, read_weights_file
from alexnet_deploy.progress import Progress, no_progress
from training.run_files import CHECKPOINT
from training.start.hugging_face import CONFIG, HubFolder, read_hub_folder

_IMAGENET_CLASSES = 1000
_LAST = "classifier.6."
_HOW = "give a file, an https address, the folder of a run or of the Hugging Face hub, shipped or imagenet1k"


@dataclass(frozen=True, slots=True)
class Source:
    """Trained weights, and what is known about them."""

    name: str
    """For people: what the user gave, without the secrets of an address."""
    arch: Architecture
    contract: ModelContract
    weights: dict[str, Tensor]
    """Float tensors by this family's names, without the layers that the file lacks."""
    has_names: bool
    """Whether it is known which class each output stands for."""
    left_over: tuple[str, ...] = ()
    """Tensors of the file that are not AlexNet's."""
    notes: tuple[str, ...] = ()
    """What was found in a file of another tool and assumed about it, one sentence each, for people."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How a checkpoint of ours was made."""


def read_source(source: str | Path, *, option: str = "start", on_progress: Progress = no_progress) -> Source:
    """The trained weights that ``source`` names; ``on_progress`` gets the bytes of a download.

    Errors call the setting that named it ``option``.

    Raises InputError for what cannot be used, ArtifactError for a damaged file of ours or a wrong hash, and
    UnavailableError where a download fails.
    """
    given = str(source)
    name = shown_url(given) if "://" in given else given
    with _in_words_of(option):
        if name == "shipped":
            return _ours(name, shipped_checkpoint())
        path = local_weights(IMAGENET1K_URL if name == "imagenet1k" else given, on_progress=on_progress)
        if path.is_dir():
            return _folder(name, path)
        if not path.exists():
            raise InputError(f"`start` {name}: no such file or folder; {_HOW}")
        if path.suffix.lower() == ".onnx":
            raise InputError(f"`start` {name}: is an ONNX file; give the checkpoint that it was exported from")
        if is_ours(path):
            return _ours(name, path)
        found = _foreign(name, path)
        return dataclasses.replace(found, notes=()) if name == "imagenet1k" else found


def read_teacher(source: str | Path) -> Checkpoint:
    """A whole network whose classes are known, from all that ``read_source`` takes; InputError for less."""
    found = read_source(source, option="teacher")
    if not found.has_names:
        raise InputError(
            f"`teacher` {found.name}: does not say which class each output stands for; give a checkpoint of ours, or a "
            "folder of the Hugging Face hub"
        )
    return check_weights(Checkpoint(found.arch, found.contract, found.weights), Path(found.name))


def _ours(name: str, path: Path) -> Source:
    checkpoint = load_checkpoint(path)
    return Source(name, checkpoint.arch, checkpoint.contract, checkpoint.weights, True, recipe=checkpoint.recipe)


def _folder(name: str, folder: Path) -> Source:
    if (folder / CHECKPOINT).is_file():
        return _ours(name, folder / CHECKPOINT)
    if not (folder / CONFIG).is_file():
        raise InputError(f"`start` {name}: holds neither {CHECKPOINT} nor {CONFIG}; {_HOW}")
    hub = read_hub_folder(folder)
    return _ours(name, hub.weights) if is_ours(hub.weights) else _foreign(name, hub.weights, hub)


def _foreign(name: str, path: Path, hub: HubFolder | None = None) -> Source:
    found = find_state_dict(read_weights_file(path), source=str(path), beside=True)
    completed = found.weights | _placeholders(found.weights)
    arch = fit_architecture(completed, None, source=str(path))
    lacking = sorted(completed.keys() - found.weights.keys())
    has_head = f"{_LAST}weight" in found.weights
    is_imagenet = has_head and arch.num_classes == _IMAGENET_CLASSES
    labels = "imagenet1k" if is_imagenet and (hub is None or hub.labels is None) else None
    class_ids, names = read_labels(labels, arch.num_classes)
    preprocessing = Preprocessing()
    averaged = ", averaged weights" if found.averaged else ""
    notes = [f"weights: {found.where()}{averaged}; their shapes are {arch.name}'s"]
    if found.note:
        notes.append(found.note)
    if hub is not None:
        class_ids, names = hub.classes(arch.num_classes) or (class_ids, names)
        preprocessing = hub.preprocessing or preprocessing
        notes += hub.notes
    has_names = is_imagenet or (has_head and hub is not None and hub.labels is not None)
    if is_imagenet and labels:
        notes.append("classes: ImageNet-1k's, as the file names none")
    if hub is None or hub.preprocessing is None:
        notes.append("preprocessing: torchvision's, as the file states none")
    contract = ModelContract(arch.name, names, class_ids, preprocessing)
    checkpoint = check_weights(Checkpoint(arch, contract, completed), path)
    weights = {key: value for key, value in checkpoint.weights.items() if key not in lacking}
    return Source(name, arch, contract, weights, has_names, found.left_over, tuple(notes))


def _placeholders(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros, without memory, for the dense layers that a network without its last or any dense layer lacks."""
    hidden = next((weights[key] for key in ("classifier.4.weight", "classifier.4.1.weight") if key in weights), None)
    shapes: dict[str, tuple[int, ...]] = {}
    if hidden is not None and not any(key.startswith(_LAST) for key in weights):
        shapes = {f"{_LAST}weight": (2, len(hidden)), f"{_LAST}bias": (2,)}
    elif not any(key.startswith("classifier.") for key in weights):
        convolutions = [value for value in weights.values() if value.ndim == 4]
        flat, width = (len(convolutions[-1]) if convolutions else 0) * FEATURE_SIDE**2, FAMILY["alexnet"].hidden
        for layer, fan_in, fan_out in (("1", flat, width), ("4", width, width), ("6", width, 2)):
            shapes |= {f"classifier.{layer}.weight": (fan_out, fan_in), f"classifier.{layer}.bias": (fan_out,)}
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


@contextmanager
def _in_words_of(option: str) -> Iterator[None]:
    """Errors of the readers of weights, which also serve the export, in the words of training."""
    try:
        yield
    except DeployError as exc:
        text = str(exc).replace(OTHER_TOOL, "give AlexNet's weights")
        text = text.replace("check `weights`", "check `start`").replace("use https, or add `allow_http`", "use https")
        text = text.replace("`start`", f"`{option}`")
        raise (exc if text == str(exc) else type(exc)(text)) from exc
