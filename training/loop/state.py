"""Everything that a run needs to continue after a kill: tensors in safetensors, numbers as JSON in its metadata."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, ProofError, one_line
from alexnet_deploy.model.checkpoint import write_tensors
from alexnet_deploy.model.weights.safetensors_file import open_safetensors, tensors_in
from training.loop.freezing import held_parameters
from training.loop.run import EpochMetrics, Run, as_json
from training.loop.step import Trainer
from training.recipes.recipe import OPTIONS, Recipe
from training.run_files import STATE_FILE

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
    tensors = _networks(trainer)
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
            _check_same({key: value for key, value in state.config.items() if key in config}, config, run)
            if not unknown:
                _check_progress(state, run)
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
        _check_same(state.config, config, trainer.run)
        _check_progress(state, trainer.run)
        _check_scale(state, trainer)
        tensors = tensors_in(file)
        _check_tensors(tensors, state, trainer)
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


def _networks(trainer: Trainer) -> dict[str, Tensor]:
    """The tensors of the model, and of the averaged one if the recipe averages, by their names in a state."""
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    if trainer.ema is not None:
        tensors |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    return tensors


def _check_progress(state: RunState, run: Run) -> None:
    """ValueError unless step and epochs are what a run of this configuration can have."""
    per_epoch = run.recipe.steps_per_epoch(len(run.train.files))
    if not 0 <= state.step <= run.recipe.epochs * per_epoch:
        raise ValueError(f"step {state.step} is not within 0..{run.recipe.epochs * per_epoch}")
    if [row.epoch for row in state.rows] != list(range(1, state.step // per_epoch + 1)):
        raise ValueError(f"it records {len(state.rows)} epochs at step {state.step} of {per_epoch} per epoch")
    accuracies = [each for row in state.rows for each in (row.val_top1_percent, row.val_class_mean_percent)]
    if any(each is not None and not 0 <= each <= 100 for each in accuracies):
        raise ValueError("it records an accuracy outside 0..100")


def _check_scale(state: RunState, trainer: Trainer) -> None:
    """ValueError unless the loss scale has the numbers that torch's GradScaler saves."""
    expected = trainer.scaler.state_dict()
    if state.scaler.keys() != expected.keys():
        raise ValueError("its loss scale is that of another precision")
    for name, value in state.scaler.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"the loss scale has {name} {value!r}")


def _check_tensors(tensors: dict[str, Tensor], state: RunState, trainer: Trainer) -> None:
    """ValueError unless names, shapes, types and values are those that ``save_state`` writes for this run."""
    expected = _networks(trainer) | _slots(tensors, state, trainer)
    missing = [key for key in expected if key not in tensors]
    if missing or len(tensors) > len(expected):
        key = missing[0] if missing else next(key for key in tensors if key not in expected)
        raise ValueError(f"{key} is {'missing' if missing else 'no part of such a run'}")
    for key, like in expected.items():
        value = tensors[key]
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{key} is {_form(value)}, expected {_form(like)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinity")
        if key.endswith(".exp_avg_sq") and (value < 0).any():
            raise ValueError(f"{key} holds negative squares")
        # A loss scale skips the optimizer in some steps, never the average; a frozen layer has no steps.
        may_skip = trainer.scaler.is_enabled() or trainer.run.recipe.unfreeze_every is not None
        fewest = 0 if may_skip and key.startswith("optimizer.") else state.step
        if key.endswith((".step", ".n_averaged")) and not fewest <= value <= state.step:
            raise ValueError(f"{key} is {value.item():g} at step {state.step}")


def _slots(tensors: dict[str, Tensor], state: RunState, trainer: Trainer) -> dict[str, Tensor]:
    """For each tensor that the optimizer of this run must have at this step, one of the same shape and type."""
    optimizer = trainer.optimizer
    adam = isinstance(optimizer, torch.optim.AdamW)
    names = ("step", "exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",) * bool(trainer.run.recipe.momentum)
    given = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    # Before its first step it has none; with a loss scale the first steps may have been skipped. SGD then lacks those
    # of each layer that has just begun to learn.
    may_lack = state.step == 0 or trainer.scaler.is_enabled()
    if may_lack and not given:
        return {}
    may_lack_some = trainer.scaler.is_enabled() and not adam
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    recipe = trainer.run.recipe
    epoch = max(state.step - 1, 0) // recipe.steps_per_epoch(len(trainer.run.train.files))
    held = held_parameters(trainer.model, recipe, epoch)
    return {
        f"optimizer.{index}.{name}": torch.zeros(()) if name == "step" else parameter.detach()
        for index, parameter in enumerate(parameters)
        if id(parameter) not in held and (str(index) in given or not may_lack_some)
        for name in names
    }


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, RunState]]:
    """The open file and the state in its header; an error in reading them or in the block is an ArtifactError."""
    try:
        with open_safetensors(path) as (metadata, file):
            if _KEY not in metadata:
                raise ValueError("it holds no progress of a run")
            yield file, msgspec.json.decode(metadata[_KEY], type=RunState)
    except FileNotFoundError as exc:
        raise no_run(path.parent) from exc
    except (OSError, ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors
        cause = getattr(exc, "strerror", None) or one_line(exc)
        raise ArtifactError(f"{path}: is not a readable training state ({cause}); start a new run") from exc


def _check_same(had: dict[str, Any], now: dict[str, Any], run: Run) -> None:
    """InputError that names the fields in which two configurations of ``run`` differ."""
    old, new = _flat(had), _flat(now)
    if old.get("data") == run.former_data():
        old["data"] = new["data"]
    old = {key: value for key, value in _defaults().items() if key in new} | old
    differs = [key for key in old | new if old.get(key) != new.get(key)]
    # Another recipe or architecture differs in a dozen fields, which all follow from its name.
    for name in ("recipe.name", "arch.name", "teacher.sha256"):
        if name in differs:
            group = name.partition(".")[0]
            differs = [name, *(key for key in differs if not key.startswith((f"{group}.", "preprocessing.std")))]
    if differs:
        differs.sort(key=lambda key: key != "recipe.epochs")  # which others follow from
        longer = f"; to train longer: `start` {run.output} and another `output`" if "recipe.epochs" in differs else ""
        named = [
            _DIGESTS.get(key, f"{_parameter(key)}{_value(key, old)}, now it is {_value(key, new)}")
            for key in differs[:_NAMED]
        ]
        more = f" (and {len(differs) - _NAMED} more)" if len(differs) > _NAMED else ""
        raise InputError(
            f"{run.output}: this run had {', '.join(named)}{more}; use the same settings and data, or another `output`"
            f"{longer}"
        )


def _defaults() -> dict[str, Any]:
    """The fields of recipe and preprocessing that have a default, as ``_flat`` names them.

    Runs from before such a field was added do not record it, and had its default.
    """
    parts = {
        name: {
            field.name: field.default for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING
        }
        for name, kind in (("recipe", Recipe), ("preprocessing", Preprocessing))
    }
    return _flat(as_json(parts | {"decoding": "full"}))


def _value(key: str, config: dict[str, Any]) -> object:
    if key == "arch.overlapping_pool":
        return "overlapping" if config.get(key) else "plain"
    return config.get(key)


def _parameter(key: str) -> str:
    """How a caller sets the field ``key`` of a configuration, up to its value."""
    group, _, name = key.partition(".")
    if key in _PARAMETERS or (group == "recipe" and name in OPTIONS):
        return f"`{_PARAMETERS.get(key, name)}` "
    return f"`overrides` {name}=" if group == "recipe" else f"{key} "


_PARAMETERS = {
    "recipe.name": "recipe",
    "arch.name": "arch",
    "arch.overlapping_pool": "pool",
    "preprocessing.resize": "resize",
    "decoding": "full_decode",
    "teacher.view": "teacher_view",
    **{f"teacher.{name}": f"distill_{name}" for name in ("temperature", "weight")},
    **{f"arch.{name}": name for name in ("dense_rank", "dropout", "activation", "lrn", "groups")},
    **{name: name for name in ("seed", "precision", "val_every", "early_stop")},
}
"""Fields of a configuration that a parameter sets."""
_DIGESTS = {"data": "other data", "start": "other weights to start with", "teacher.sha256": "other teachers"}
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
