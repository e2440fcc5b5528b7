"""The files of a run beside its state."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import alexnet_deploy
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.models.tiny_runs import metrics_of, rows_of
from tests.helpers.photos import CLASSES
from training.loop.record import writer
from training.loop.run import Run
from training.run_files import CHECKPOINT, METRICS, STATE_FILE


def test_two_epochs_learn_and_leave_a_whole_record(tiny_run: Run) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arch = dataclasses.replace(tiny_run.arch, dropout=0.0)
    run = dataclasses.replace(tiny_run, arch=arch, recipe=dataclasses.replace(tiny_run.recipe, lr=5e-3))
    steps: list[tuple[str, int, int]] = []
    rows = rows_of(run, on_progress=lambda *step: steps.append(step))
    assert steps == [("training", step, 6) for step in range(1, 7)]
    assert rows[1].train_loss < 0.8 * rows[0].train_loss
    assert [row.epoch for row in rows] == [1, 2]
    left = sorted(path.name for path in run.output.iterdir() if not path.name.startswith("events.out.tfevents."))
    assert left == [CHECKPOINT, "curves.png", METRICS, STATE_FILE]

    checkpoint = load_checkpoint(run.output / CHECKPOINT)
    assert checkpoint.arch == run.arch
    assert checkpoint.contract.class_ids == tuple(CLASSES)
    assert checkpoint.contract.labels == ("red", "green", "blue")
    assert checkpoint.contract.preprocessing.height == 224  # it was trained on smaller pictures
    recipe = checkpoint.recipe
    assert recipe["recipe"] == run.config()["recipe"]
    assert recipe["result"] == dataclasses.asdict(rows[1])
    assert (recipe["source_sha256"], recipe["torch"]) == (writer.source_digest(), torch.__version__)

    with Image.open(run.output / "curves.png") as curves:
        assert curves.width > 600
        colours = curves.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 20  # lines in colour, not an empty page

    found = events.EventAccumulator(str(run.output))
    found.Reload()
    scalars = found.Scalars("train_loss")
    assert [scalar.step for scalar in scalars] == [1, 2]  # each once
    assert [scalar.value for scalar in scalars] == pytest.approx([row.train_loss for row in rows], rel=1e-6)

    (event_file,) = run.output.glob("events.out.tfevents.*")
    assert re.fullmatch(r"events\.out\.tfevents\.\d+\.training", event_file.name), "no host name, as torch's has"

    lines = [dataclasses.asdict(row) for row in rows]
    assert metrics_of(run.output) == lines
    # A kill between the state and its record lost a line: the next start writes it from the state.
    (run.output / METRICS).write_text("")
    assert rows_of(dataclasses.replace(run, resume=True)) == []
    assert metrics_of(run.output) == lines


def test_the_digest_changes_with_any_source_that_decides_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {f"training/{name}.py" for name in ("recipes/named", "loop/record/writer", "data/augment")}
    sources |= {f"alexnet_deploy/{name}.py" for name in ("images/decode", "model/architecture", "model/lrn")}
    for name in (*sources, "alexnet_deploy/__init__.py", "alexnet_deploy/errors.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(writer, "__file__", str(tmp_path / "training" / "loop" / "record" / "writer.py"))
    monkeypatch.setattr(alexnet_deploy, "__file__", str(tmp_path / "alexnet_deploy" / "__init__.py"))
    seen = {writer.source_digest()}
    for name in sorted(sources):
        (tmp_path / name).write_text("after")
        seen.add(writer.source_digest())
    assert len(seen) == 7
    (tmp_path / "alexnet_deploy" / "errors.py").write_text("after")
    assert writer.source_digest() in seen
    (tmp_path / "training" / "data" / "augment.py").rename(tmp_path / "training" / "loop" / "augment.py")
    assert writer.source_digest() not in seen  # the place of a module is part of it
