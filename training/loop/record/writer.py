"""The files of a run besides its state: checkpoint, metrics.jsonl, curves.png, TensorBoard events."""

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
from training.loop.record.curves import plot_curves
from training.loop.run import EpochMetrics, Run
from training.loop.standardise import plain_weights
from training.run_files import AT_CHANCE, CHECKPOINT, METRICS


def set_aside(checkpoint: Path) -> Path:
    """Rename the checkpoint of a run at chance, so nobody takes it for a result; return its new path."""
    return checkpoint.rename(checkpoint.with_name(AT_CHANCE))


class RunWriter:
    """Writes the metrics and the checkpoint of a run. ``config`` is the run's configuration, for the checkpoint."""

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.run, self.config = run, config
        self._events: Any = None

    def write_epochs(self, rows: Sequence[EpochMetrics]) -> None:
        """Write and plot all rows so far; only the last is new to TensorBoard."""
        with atomic_file(self.run.output / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows), encoding="utf-8")
        plot_curves(rows, self.run.output / "curves.png")
        if self._events is None and importlib.util.find_spec("tensorboard") is not None:
            from training.loop.record.events import EventWriter

            self._events = EventWriter(self.run.output)
        if self._events is not None:
            row = dataclasses.asdict(rows[-1])
            scalars = {name: value for name, value in row.items() if name != "epoch" and value is not None}
            self._events.write(scalars, rows[-1].epoch)

    def write_checkpoint(self, model: torch.nn.Module, row: EpochMetrics) -> Path:
        """Write the checkpoint of the epoch of ``row``: weights, contract, and how they were trained."""
        recipe = self.config | {
            "result": dataclasses.asdict(row),
            "torch": torch.__version__,
            "alexnet_deploy": alexnet_deploy.__version__,
            "source_sha256": source_digest(),
        }
        if self.run.start is not None and "started_from" in self.run.start.recipe:
            recipe["started_from"] = self.run.start.recipe["started_from"]
        checkpoint = Checkpoint(self.run.arch, self.run.contract(), plain_weights(model), recipe)
        return save_checkpoint(checkpoint, self.run.output / CHECKPOINT)

    def bring_back(self) -> None:
        """Undo ``set_aside``: a run that goes on may leave chance, and one that is over is judged again."""
        aside = self.run.output / AT_CHANCE
        if aside.is_file() and not (self.run.output / CHECKPOINT).exists():
            aside.rename(self.run.output / CHECKPOINT)

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()


def source_digest() -> str:
    """SHA-256 over the code that determines the weights: equal if the same code made two checkpoints.

    All of ``training/`` and the modules of the package that decode pixels and build the network, each under its path.
    """
    package, training = Path(alexnet_deploy.__file__).parent, Path(__file__).parents[2]
    used = [package / f"{name}.py" for name in _PACKAGE_SOURCES] + list((package / "images" / "codecs").glob("*.py"))
    sources = {path.relative_to(package).as_posix(): path for path in used}
    sources |= {f"training/{path.relative_to(training).as_posix()}": path for path in training.rglob("*.py")}
    digest = hashlib.sha256()
    for name, path in sorted(sources.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_PACKAGE_SOURCES = ("images/decode", "model/architecture", "model/lrn")
