"""Everything a run needs to go on after a kill: tensors in safetensors, numbers as JSON in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_deploy.checkpoint import write_tensors
from alexnet_deploy.errors import ArtifactError, InputError

STATE_FILE = "state.safetensors"
_KEY = "alexnet_deploy.training"


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``config`` is what must be equal for a run to be continued.

    ``val_errors`` holds the validation error in percent of each finished epoch.
    """

    step: int
    config: dict[str, Any]
    val_errors: list[float] = field(default_factory=list)


def save_state(path: Path, progress: Progress, model: nn.Module, ema: nn.Module | None, optimizer: Optimizer) -> None:
    """Write model, averaged model and optimizer state atomically: a kill leaves the last good state."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, slot in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in slot.items()}
    metadata = {_KEY: json.dumps(asdict(progress))}
    write_tensors(tensors, path, metadata)


def load_state(
    path: Path, config: dict[str, Any], model: nn.Module, ema: nn.Module | None, optimizer: Optimizer
) -> Progress:
    """Put a saved state back in place.

    Raises InputError where there is none or it belongs to another configuration, ArtifactError where it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            raw = json.loads((file.metadata() or {})[_KEY])
            progress = Progress(int(raw["step"]), dict(raw["config"]), [float(error) for error in raw["val_errors"]])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as exc:
        raise InputError(f"{path.parent}: holds no run to resume; leave --resume out to start one") from exc
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as exc:
        raise ArtifactError(f"{path}: is not a readable training state ({exc}); start a new run") from exc
    had = progress.config
    differs = [key for key in sorted(config.keys() | had.keys()) if config.get(key) != had.get(key)]
    if differs:
        key = differs[0]
        raise InputError(
            f"{path.parent}: this run had {key} {had.get(key)}, now it is {config.get(key)}; "
            "use the same flags and data, or another --output"
        )
    model.load_state_dict(_under("model.", tensors))
    if ema is not None:
        ema.load_state_dict(_under("ema.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    return progress


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
