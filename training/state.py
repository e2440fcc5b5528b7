"""Everything a run needs to go on after a kill: tensors in safetensors, numbers as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet_deploy.errors import ArtifactError, InputError, ProofError
from alexnet_deploy.model.checkpoint import write_tensors
from training.run import EpochRow, Run
from training.step import Trainer

STATE_FILE = "state.safetensors"
_KEY = "alexnet_deploy.training"


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps done, a row a finished epoch. ``config`` must be equal for a run to be continued."""

    step: int
    config: dict[str, Any]
    rows: list[EpochRow] = field(default_factory=list)

    @property
    def val_errors(self) -> list[tuple[int, float]]:
        """Each validated epoch with its validation error in percent."""
        return [(row.epoch, 100 - row.val_top1_percent) for row in self.rows if row.val_top1_percent is not None]


def save_state(path: Path, progress: Progress, trainer: Trainer) -> None:
    """Write models, optimizer and loss scale atomically: a kill or a full disk leaves the last good state.

    ProofError, with that state still in place, where a number of the new one is not finite.
    """
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    if trainer.ema is not None:
        tensors |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    for index, slot in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in slot.items()}
    # A loss tells of the weights before its step alone, so the last step's may be lost with all losses sound.
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ProofError(
            f"{path.parent}: {broken} is not finite any more after step {progress.step}; "
            "lower --lr and choose another --output"
        )
    metadata = {_KEY: json.dumps(asdict(progress) | {"scaler": trainer.scaler.state_dict()})}
    write_tensors(tensors, path, metadata)


def check_folder(run: Run, *, unknown: Collection[str] = ()) -> None:
    """Refuse early, from the head of the state alone, what the beginning of the run would refuse.

    InputError where the folder holds a run that is not to be resumed, none to resume, or one of another configuration;
    ArtifactError where its state is damaged. ``unknown``: keys of the configuration that are not settled yet.
    """
    path = run.output / STATE_FILE
    if run.resume:
        with _opened(path) as (_, raw):
            had = dict(raw["config"])
        config = {key: value for key, value in run.config().items() if key not in unknown}
        _check_same({key: value for key, value in had.items() if key in config}, config, run.output)
    elif path.exists():
        raise InputError(f"{run.output}: already holds a run; add --resume to continue it, or choose another --output")


def load_state(path: Path, config: dict[str, Any], trainer: Trainer) -> Progress:
    """Put a saved state back in place.

    Raises InputError where there is none or it belongs to another configuration, ArtifactError where it is damaged.
    """
    with _opened(path) as (file, raw):
        progress = Progress(int(raw["step"]), dict(raw["config"]), [EpochRow(**row) for row in raw["rows"]])
        scaler = dict(raw["scaler"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    _check_same(progress.config, config, path.parent)
    trainer.model.load_state_dict(_under("model.", tensors))
    if trainer.ema is not None:
        trainer.ema.load_state_dict(_under("ema.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, _, name = key.partition(".")
        # As the weights lie (step.py): a fused step walks both by memory, without a look at their strides.
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        slots.setdefault(int(index), {})[name] = value.contiguous(memory_format=layout)
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": slots})
    trainer.scaler.load_state_dict(scaler)
    return progress


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file and what its head says; what cannot be read in it or in the block becomes an error of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})[_KEY])
    except FileNotFoundError as exc:
        raise InputError(f"{path.parent}: holds no run to resume; leave --resume out to start one") from exc
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as exc:
        raise ArtifactError(f"{path}: is not a readable training state ({exc}); start a new run") from exc


def _check_same(had: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """InputError that names the fields in which two configurations differ."""
    old, new = _flat(had), _flat(now)
    differs = [key for key in old | new if old.get(key) != new.get(key)]
    if differs:
        told = [_DIGESTS.get(key, f"{key} {old.get(key)}, now it is {new.get(key)}") for key in differs[:_TOLD]]
        more = f" (and {len(differs) - _TOLD} more)" if len(differs) > _TOLD else ""
        raise InputError(
            f"{folder}: this run had {', and '.join(told)}{more}; use the same flags and data, or another --output"
        )


_DIGESTS = {"data": "other data", "start": "other weights to start with"}
"""Fields that are a digest, which tells a reader nothing."""
_TOLD = 3
"""Fields that a message names: another recipe differs in a dozen."""


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"recipe": {"lr": 1}}`` as ``{"recipe.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
