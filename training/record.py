"""What a run leaves beside its state: checkpoint, metrics.jsonl, curves.png, TensorBoard events."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import alexnet_deploy
from alexnet_deploy.files import atomic_file
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from training.curves import draw_curves
from training.run import EpochRow, Run
from training.standardise import plain_weights

METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"


class Record:
    """Writes a row an epoch to every place that shows it. ``config`` is what the run was told, for the checkpoint."""

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.run, self.config = run, config
        self._events: Any = None

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        """Write the rows so far, of which the last is new, and draw them."""
        with atomic_file(self.run.output / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows), encoding="utf-8")
        draw_curves(rows, self.run.output / "curves.png")
        if self._events is None and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # it makes the folder, so not before there is a row

            self._events = SummaryWriter(self.run.output)
        if self._events is not None:
            for name, value in dataclasses.asdict(rows[-1]).items():
                if name != "epoch" and value is not None:
                    self._events.add_scalar(name, value, rows[-1].epoch)
            self._events.flush()

    def checkpoint(self, model: torch.nn.Module, row: EpochRow) -> Path:
        """Write the checkpoint as of the epoch of ``row``: weights, contract, and how they came about."""
        recipe = self.config | {
            "result": dataclasses.asdict(row),
            "torch": torch.__version__,
            "alexnet_deploy": alexnet_deploy.__version__,
            "source_sha256": source_digest(),
        }
        made = Checkpoint(self.run.arch, self.run.contract(), plain_weights(model), recipe)
        return save_checkpoint(made, self.run.output / CHECKPOINT)

    def close(self) -> None:
        """Give back the event file."""
        if self._events is not None:
            self._events.close()


def source_digest() -> str:
    """SHA-256 over the code that shapes weights, so that two checkpoints tell whether one code made both."""
    package = Path(alexnet_deploy.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*Path(__file__).parent.glob("*.py"), *(package / f"{m}.py" for m in _SHAPING)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_SHAPING = ("images/decode", "model/architecture", "model/lrn")
