"""A checkpoint as a folder of the Hugging Face hub: weights, config, preprocessing and a model card.

transformers has no AlexNet, so its Auto classes cannot build the network; they can read everything beside it. The names
of the weights are torchvision's, and model.safetensors carries our own metadata, from which it is read back exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from alexnet_deploy.contract import METADATA_KEY, ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import atomic_directory, check_directory
from alexnet_deploy.model.architecture import Architecture
from alexnet_deploy.model.checkpoint import ARCHITECTURE_KEY, RECIPE_KEY, Checkpoint
from training.epochs import epochs_of
from training.markdown import escaped
from training.packing.scale import EVALUATION
from training.start.hugging_face import CLASS_IDS, CONFIG, OURS, PROCESSOR, WEIGHTS

CARD = "README.md"
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers, which image processors take."""


def check_hf_folder(folder: Path) -> None:
    """UsageError or UnavailableError if ``folder`` cannot be written, or holds files of others that would be lost."""
    check_directory(folder)
    ours = {CONFIG, PROCESSOR, WEIGHTS, CARD}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.is_dir() else []
    if others:
        raise UsageError(f"`hf` {folder}: holds {others[0]}, which would be lost; choose a new folder")


def write_hf_folder(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint``, its weights bit by bit, as ``folder``.

    A folder of an earlier call is replaced at once. Raises UnavailableError where it cannot be written; it is then as
    it was.
    """
    check_hf_folder(folder)
    metadata = {
        "format": "pt",  # transformers refuses a file without it
        METADATA_KEY: checkpoint.contract.to_json(),
        ARCHITECTURE_KEY: json.dumps(checkpoint.arch.to_dict()),
        RECIPE_KEY: json.dumps(checkpoint.recipe),
    }
    dtype = str(next(iter(checkpoint.weights.values())).dtype).removeprefix("torch.")
    with atomic_directory(folder) as temporary:
        tensors = {key: value.detach().contiguous() for key, value in checkpoint.weights.items()}
        save_file(tensors, temporary / WEIGHTS, metadata)
        (temporary / WEIGHTS).chmod(temporary.stat().st_mode & 0o666)  # safetensors lets only the owner read its files
        _write_json(temporary / CONFIG, config_of(checkpoint.arch, checkpoint.contract, dtype))
        _write_json(temporary / PROCESSOR, processor_of(checkpoint.contract.preprocessing))
        (temporary / CARD).write_text(card_of(checkpoint), encoding="utf-8")
    return folder


def config_of(arch: Architecture, contract: ModelContract, dtype: str) -> dict[str, Any]:
    """config.json: transformers' field names where it has one for the thing."""
    labels = contract.labels
    return {
        "architectures": ["AlexNetForImageClassification"],
        "model_type": "alexnet",
        "problem_type": "single_label_classification",
        "num_channels": 3,
        "image_size": contract.preprocessing.height,
        "hidden_sizes": list(arch.widths),
        "intermediate_size": arch.hidden,
        "hidden_act": arch.activation,
        "classifier_dropout": arch.dropout,
        "groups": list(arch.groups),
        "conv_bias": arch.conv_bias,
        "local_response_norm": arch.lrn,
        "overlapping_pool": arch.overlapping_pool,
        "dense_rank": arch.dense_rank,
        "torch_dtype": dtype,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        # Of two classes of one name (ImageNet has two cranes) a dictionary keeps one; id2label has both.
        "label2id": {label: labels.index(label) for label in labels},
        # Our own names below one key: transformers gives ``temperature`` another meaning.
        OURS: {
            "architecture": arch.name,
            CLASS_IDS: list(contract.class_ids),
            "temperature": contract.temperature,
        },
    }


def processor_of(pre: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json: an image processor whose steps are resize, centre crop, rescale and normalise.

    Where the border beside the crop is an odd number of pixels, it cuts one pixel further up or left than we do.
    """
    if pre.resize == "shorter-side":
        kind, size = "BitImageProcessor", {"shortest_edge": pre.resize_to}
    elif pre.resize_to is None:
        kind, size = "ViTImageProcessor", {"height": pre.height, "width": pre.width}
    else:
        kind, size = "EfficientNetImageProcessor", {"height": pre.resize_to, "width": pre.resize_to}
    crops = pre.resize_to is not None
    crop = {"crop_size": {"height": pre.height, "width": pre.width}} if crops else {}
    extra = {"include_top": False, "rescale_offset": False} if kind == "EfficientNetImageProcessor" else {}
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": _FILTERS[pre.interpolation],
        "do_center_crop": crops,
        **crop,
        **extra,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pre.mean),
        "image_std": list(pre.std),
    }


def card_of(checkpoint: Checkpoint) -> str:
    """README.md: the hub's header and a card that says what the model is, reads and answers."""
    arch, contract = checkpoint.arch, checkpoint.contract
    size = f"dense rank {arch.dense_rank}" if arch.dense_rank else "full rank"
    weights = sum(value.numel() for value in checkpoint.weights.values())
    lines = [
        "---",
        "pipeline_tag: image-classification",
        "tags:",
        "- alexnet",
        "- image-classification",
        "- pytorch",
        "---",
        "",
        f"# {arch.name}, {len(contract.labels)} classes",
        "",
        f"An AlexNet ({size}, {weights:,} weights). The licence is not stated here: it follows from the training data",
        "and from the weights that the training began with.",
        "",
        f"- Input: {contract.preprocessing.describe()}.",
        f"- Output: logits of {len(contract.labels)} classes: {_listed(contract.labels)}.",
        f"- Training: {_training(checkpoint.recipe)}.",
        f"- Accuracy: {_accuracy(checkpoint.recipe.get(EVALUATION))}.",
        "",
        "## Use",
        "",
        "transformers reads `config.json` and `preprocessor_config.json`; it has no AlexNet to build.",
        "",
        "```",
        f"alexnet-deploy export --weights {WEIGHTS} --output model.onnx",
        "python -m training train DATA --start THIS_FOLDER --output RUN",
        "```",
        "",
    ]
    if _is_torchvisions(arch):
        lines += [
            "```python",
            "from safetensors.torch import load_file",
            "from torchvision.models import alexnet",
            "",
            f"model = alexnet(num_classes={arch.num_classes}).eval()",
            f'model.load_state_dict(load_file("{WEIGHTS}"))',
            "```",
            "",
        ]
    return "\n".join(lines)


def _listed(labels: tuple[str, ...]) -> str:
    shown = ", ".join(escaped(" ".join(label.split())) for label in labels[:20])
    return shown if len(labels) <= 20 else f"{shown}, and {len(labels) - 20} more"


def _training(recipe: dict[str, Any]) -> str:
    own, start, compressed = (recipe.get(key) for key in ("recipe", "started_from", "compressed"))
    text = f"recipe {escaped(own['name'])}" if isinstance(own, dict) and isinstance(own.get("name"), str) else ""
    if text and (epochs := epochs_of(recipe).describe()):
        text += f", {epochs}"
    if isinstance(compressed, dict) and isinstance(parent := compressed.get("parent_recipe"), dict):
        made = f"compressed to rank {compressed.get('rank')}"
        return f"{_training(parent)}; then {made}" + (f", {text}" if text else "")
    if isinstance(start, dict):
        text = f"{text or 'fine-tuned'}, from the weights of {escaped(str(start.get('source')))}"
    return text or "not recorded"


def _accuracy(evaluation: object) -> str:
    if not isinstance(evaluation, dict) or "top1_percent" not in evaluation:
        return "not measured"
    images = evaluation.get("images")
    return f"top-1 {evaluation['top1_percent']} %, top-5 {evaluation['top5_percent']} % on {images} images"


def _is_torchvisions(arch: Architecture) -> bool:
    return arch.name == "alexnet" and arch == Architecture("alexnet", (64, 192, 384, 256, 256), arch.num_classes)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
