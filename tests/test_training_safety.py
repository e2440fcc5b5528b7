"""A run that cannot succeed stops with the cause; what was good stays on disk whatever happens."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import rows_of, run_of

from alexnet_deploy.checkpoint import load_checkpoint
from alexnet_deploy.errors import ProofError, UnavailableError
from training.loop import train
from training.recipes import recipe
from training.run import EpochRow, Run
from training.state import STATE_FILE
from training.watch import CHANCE_EPOCHS, Watch


@pytest.fixture
def tiny_run(photo_folder: Path, tmp_path: Path) -> Run:
    return run_of(photo_folder, tmp_path / "run", epochs=2, batch=6, sides=((0.0, 96),))


class TestWatch:
    def test_a_sound_run_passes(self) -> None:
        watch = Watch("run", 10)
        for epoch, (loss, top1) in enumerate([(3.4, 10.0), (2.31, 10.0), (2.2, 18.0), (1.5, 50.0)], 1):
            watch.loss(epoch, loss)
            watch.validation(epoch, loss, top1)

    @pytest.mark.parametrize("loss", [math.nan, math.inf])
    def test_no_number(self, loss: float) -> None:
        with pytest.raises(ProofError, match=rf"run: the loss became {loss} in epoch 1; lower --lr"):
            Watch("run", 10).loss(1, loss)

    def test_an_explosion(self) -> None:
        watch = Watch("run", 10)
        watch.loss(1, 9.3)  # the first epoch's mean has its first steps in it
        watch.loss(2, 9.2)
        with pytest.raises(ProofError, match=r"run: the loss exploded to 9\.3 in epoch 2 \(a blind guess has 2\.3\)"):
            watch.loss(2, 9.3)  # 4 ln 10 = 9.21

    def test_chance_must_last(self) -> None:
        watch = Watch("run", 10)
        for epoch in range(1, CHANCE_EPOCHS):
            watch.validation(epoch, 2.302, 10.0)
        watch.validation(5, 2.25, 10.0)  # the loss has left chance, if not the accuracy
        for epoch in range(6, 5 + CHANCE_EPOCHS):
            watch.validation(epoch, 2.302, 10.0)
        with pytest.raises(ProofError, match=r"still at chance \(10\.0 % of 10 classes\) after epoch 10, .* --lr"):
            watch.validation(10, 2.302, 10.0)

    def test_an_accuracy_above_chance_is_none(self) -> None:
        watch = Watch("run", 10)
        for epoch in range(1, 2 * CHANCE_EPOCHS):
            watch.validation(epoch, 2.302, 15.1)


def test_a_run_that_learns_nothing_is_stopped(tiny_run: Run) -> None:
    # So small a rate that nothing changes, and answers that are the same for all.
    dead = dataclasses.replace(recipe("torchvision", epochs=20, batch=18, lr=1e-8), init="paper", sides=((0.0, 96),))
    with pytest.raises(ProofError, match=rf"still at chance \(33\.3 % of 3 classes\) after epoch {CHANCE_EPOCHS}"):
        rows_of(dataclasses.replace(tiny_run, recipe=dead))
    assert (tiny_run.output / STATE_FILE).is_file()


def test_the_state_is_saved_within_an_epoch_when_it_is_time(tiny_run: Run) -> None:
    seen: list[bool] = []

    def look(step: int, total: int) -> None:
        seen.append((tiny_run.output / STATE_FILE).exists())

    tiny_run.output.mkdir()
    train(dataclasses.replace(tiny_run, save_minutes=0.0), on_epoch=lambda row: None, on_step=look)
    assert seen[:3] == [True, True, True]


def test_a_full_disk_keeps_the_last_good_state(tiny_run: Run, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the system refuses the same write."""
    undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
    rows_of(undisturbed)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = tiny_run.output / STATE_FILE
    kept: list[bytes] = []

    def fill_the_disk(row: EpochRow) -> None:
        kept.append(state.read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[0]) // 4, limits[1]))

    try:
        with pytest.raises(UnavailableError) as caught:
            train(tiny_run, on_epoch=fill_the_disk, on_step=lambda step, total: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [state.read_bytes()] == kept
    rows_of(dataclasses.replace(tiny_run, resume=True))
    checkpoint = "checkpoint.safetensors"
    weights, expected = (load_checkpoint(run.output / checkpoint).weights for run in (tiny_run, undisturbed))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert not [path for path in tiny_run.output.iterdir() if path.name.startswith(".")]


def test_a_run_leaves_curves_and_one_line_an_epoch(tiny_run: Run) -> None:
    rows = rows_of(tiny_run)
    with Image.open(tiny_run.output / "curves.png") as curves:
        assert curves.width > 600
        colours = curves.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 20  # lines in colour, not an empty page
    # A kill between the state and its record lost a line: the next start writes it from the state.
    metrics = tiny_run.output / "metrics.jsonl"
    metrics.write_text("")
    assert rows_of(dataclasses.replace(tiny_run, resume=True)) == []
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == [dataclasses.asdict(row) for row in rows]


def test_tensorboard_gets_each_number_once(tiny_run: Run) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = rows_of(tiny_run)
    found = events.EventAccumulator(str(tiny_run.output))
    found.Reload()
    scalars = found.Scalars("train_loss")
    assert [scalar.step for scalar in scalars] == [1, 2]
    assert [scalar.value for scalar in scalars] == pytest.approx([row.train_loss for row in rows], rel=1e-6)


def test_the_checkpoint_names_the_code_that_made_it(tiny_run: Run) -> None:
    rows_of(tiny_run)
    recipe_of = load_checkpoint(tiny_run.output / "checkpoint.safetensors").recipe
    assert len(recipe_of["source_sha256"]) == 64
    assert recipe_of["torch"] == torch.__version__
