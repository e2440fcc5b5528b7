"""Everything that a run needs to continue after a kill: tensors in safetensors, numbers as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet_deploy.errors import ArtifactError, InputError, ProofError
from alexnet_deploy.model.checkpoint import write_tensors
from training.loop.run import EpochMetrics, Run
from training.loop.step import Trainer

STATE_FILE = "state.safetensors"
_KEY = "alexnet_deploy.training"


@dataclass(slots=True)
class RunState:
    """The progress of a run. It can be continued only with an equal ``config``."""

    step: int
    config: dict[str, Any]
    rows: list[EpochMetrics] = field(default_factory=list)
    """One per finished epoch."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scale, as torch's GradScaler saves itself."""

    @property
    def val_errors(self) -> list[tuple[int, float]]:
        """Each validated epoch with its validation error in percent."""
        return [(row.epoch, 100 - row.val_top1_percent) for row in self.rows if row.val_top1_percent is not None]


def save_state(path: Path, state: RunState, trainer: Trainer) -> None:
    """Write model, optimizer and loss scale atomically: a kill or a full disk leaves the last good state.

    ProofError, with that state still in place, if a number of the new one is not finite.
    """
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    if trainer.ema is not None:
        tensors |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    for index, slot in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in slot.items()}
    # A loss belongs to the weights before its step, so the last weights may be broken although all losses are finite.
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ProofError(
            f"{path.parent}: {broken} is no longer finite after step {state.step}; "
            "lower `lr` and choose another `output`"
        )
    state.scaler = trainer.scaler.state_dict()
    write_tensors(tensors, path, {_KEY: json.dumps(asdict(state))})


def check_run_folder(run: Run, *, unknown: Collection[str] = ()) -> None:
    """Raise early, from the header of the state alone, the errors that the start of the run would raise.

    InputError if the folder holds a run that is not to be resumed, none to resume, or one of another configuration;
    ArtifactError if its state is damaged. ``unknown``: keys of the configuration that are not known yet.
    """
    path = run.output / STATE_FILE
    if run.resume:
        with _opened(path) as (_, state):
            config = {key: value for key, value in run.config().items() if key not in unknown}
            _check_same({key: value for key, value in state.config.items() if key in config}, config, run.output)
    else:
        check_no_run(run.output)


def check_no_run(folder: Path) -> None:
    """InputError if ``folder`` already holds the state of a run."""
    if (folder / STATE_FILE).exists():
        raise InputError(f"{folder}: already holds a run; add `resume` to continue it, or choose another `output`")


def no_run(folder: Path) -> InputError:
    """The error for a folder without anything to resume."""
    return InputError(f"{folder}: holds no run to resume; leave `resume` out to start one")


def load_state(path: Path, config: dict[str, Any], trainer: Trainer) -> RunState:
    """Put a saved state back in place.

    Raises InputError if there is none or it belongs to another configuration, ArtifactError if it is damaged.
    """
    with _opened(path) as (file, state):
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    _check_same(state.config, config, path.parent)
    trainer.model.load_state_dict(_below("model.", tensors))
    if trainer.ema is not None:
        trainer.ema.load_state_dict(_below("ema.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _below("optimizer.", tensors).items():
        index, _, name = key.partition(".")
        # In the memory layout of the weights (step.py): a fused step iterates over both and ignores their strides.
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        slots.setdefault(int(index), {})[name] = value.contiguous(memory_format=layout)
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": slots})
    trainer.scaler.load_state_dict(state.scaler)
    return state


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, RunState]]:
    """The open file and the state in its header; an error in reading them or in the block is an ArtifactError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, msgspec.json.decode((file.metadata() or {})[_KEY], type=RunState)
    except FileNotFoundError as exc:
        raise no_run(path.parent) from exc
    except (SafetensorError, OSError, KeyError, ValueError) as exc:  # msgspec's errors are ValueErrors
        raise ArtifactError(f"{path}: is not a readable training state ({exc}); start a new run") from exc


def _check_same(had: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """InputError that names the fields in which two configurations differ."""
    old, new = _flat(had), _flat(now)
    differs = [key for key in old | new if old.get(key) != new.get(key)]
    if differs:
        named = [_DIGESTS.get(key, f"{key} {old.get(key)}, now it is {new.get(key)}") for key in differs[:_NAMED]]
        more = f" (and {len(differs) - _NAMED} more)" if len(differs) > _NAMED else ""
        raise InputError(
            f"{folder}: this run had {', and '.join(named)}{more}; use the same settings and data, or another `output`"
        )


_DIGESTS = {"data": "other data", "start": "other weights to start with"}
"""Fields that are a digest, which means nothing to a reader."""
_NAMED = 3
"""Maximum number of fields in a message: another recipe differs in a dozen."""


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"recipe": {"lr": 1}}`` as ``{"recipe.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
