"""Read a model repository as Triton does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format

from alexnet_deploy.serving.triton.config_text import model_config


def config_of(model: Path) -> dict[str, Any]:
    """``config.pbtxt`` of a model's folder, parsed with Triton's schema."""
    message = text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), model_config()())
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def sizes(tensor: dict[str, Any]) -> list[int]:
    """The dims of an input or output; protobuf writes 64-bit numbers as text."""
    return [int(size) for size in tensor["dims"]]


def models_in(repository: Path) -> set[str]:
    return {folder.name for folder in repository.iterdir() if folder.is_dir()}
