"""A run that cannot succeed stops with the cause; what was good stays on disk whatever happens."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alexnet_deploy.errors import ProofError, UnavailableError
from alexnet_deploy.model.architecture import architecture
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.tiny_runs import rows_of, run_of
from training.loop import train
from training.recipes import recipe
from training.run import EpochRow, Run
from training.state import STATE_FILE
from training.watch import CHANCE_EPOCHS, SETTLED_STEPS, WINDOW, Watch


@pytest.fixture
def tiny_run(photo_folder: Path, tmp_path: Path) -> Run:
    return run_of(photo_folder, tmp_path / "run", epochs=2, batch=6, sides=((0.0, 96),))


def row_of(epoch: int, train_loss: float, val_top1_percent: float | None) -> EpochRow:
    return EpochRow(epoch, 0.01, train_loss, None, val_top1_percent, 1.0, 0.0)


class TestWatch:
    """Ten classes, so 2.303 is the loss of a blind guess; two epochs of warm-up."""

    @pytest.fixture
    def run(self, tiny_run: Run) -> Run:
        return dataclasses.replace(tiny_run, arch=architecture("alexnet", num_classes=10))

    def judged(self, run: Run, steps_per_epoch: int, rows: list[EpochRow]) -> int | None:
        """After how many of the rows a run is stopped."""
        for count in range(1, len(rows) + 1):
            try:
                Watch(run, steps_per_epoch).rows(rows[:count])  # a new one each time: as after a resume
            except ProofError:
                return count
        return None

    @pytest.mark.parametrize("loss", [math.nan, math.inf])
    def test_no_number(self, run: Run, loss: float) -> None:
        plain = dataclasses.replace(run, recipe=recipe("torchvision"))
        for told, advice in ((plain, "clip the gradient: --set clip_norm=1"), (run, "another --output")):
            with pytest.raises(ProofError, match=rf"run: the loss became {loss} in epoch 1; lower --lr .*{advice}$"):
                Watch(told, 100).losses(7, [2.3, loss])

    def test_an_explosion_in_the_first_epoch(self, run: Run) -> None:
        watch = Watch(dataclasses.replace(run, recipe=recipe("torchvision")), 10_000)
        watch.losses(SETTLED_STEPS + WINDOW, [9.2] * WINDOW)  # 4 ln 10 = 9.21
        with pytest.raises(ProofError, match=r"run: the loss exploded to 9\.3 in epoch 1 \(a blind guess has 2\.3\)"):
            watch.losses(SETTLED_STEPS + WINDOW, [9.3] * WINDOW)

    def test_a_leap_after_the_warm_up_is_none(self, run: Run) -> None:
        """As 80 images do with ``modern``, a step an epoch: 10.9 of 2.3 in the second step after the warm-up."""
        watch = Watch(run, 1)
        for step in range(1, 2 + SETTLED_STEPS + WINDOW):
            watch.losses(step, [10.9] * min(step, WINDOW))
        with pytest.raises(ProofError, match=rf"exploded to 10\.9 in epoch {2 + SETTLED_STEPS + WINDOW} "):
            watch.losses(2 + SETTLED_STEPS + WINDOW, [10.9] * WINDOW)

    def test_a_few_wild_steps_are_none(self, run: Run) -> None:
        Watch(run, 100).losses(1000, [100.0] * 3 + [2.0] * (WINDOW - 3))
        Watch(run, 100).losses(1000, [100.0] * (WINDOW - 1))  # fewer than a window: just resumed

    def test_chance_must_last(self, run: Run) -> None:
        blind = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 21)]
        assert self.judged(run, 1000, blind) == CHANCE_EPOCHS
        for life in (row_of(3, 2.25, 10.0), row_of(3, 2.25, None), row_of(3, 2.302, 15.1)):
            assert self.judged(run, 1000, [*blind[:2], life, *blind[3:]]) == 3 + CHANCE_EPOCHS
        assert self.judged(run, 1000, [row_of(epoch, 2.302, 15.1) for epoch in range(1, 21)]) is None

    def test_chance_is_counted_in_epochs_however_many_are_validated(self, run: Run) -> None:
        rows = [row_of(epoch, 2.302, None if epoch % 4 else 10.0) for epoch in range(1, 21)]
        assert self.judged(run, 1000, rows) == 8

    def test_few_steps_after_the_warm_up_prove_no_chance(self, run: Run) -> None:
        rows = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 31)]
        assert self.judged(run, 10, rows) == 2 + SETTLED_STEPS / 10
        assert self.judged(run, 1, rows) is None

    def test_the_recipe_that_a_run_has_is_no_advice(self, run: Run) -> None:
        rows = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 6)]
        with pytest.raises(ProofError, match=r"still at chance \(10\.0 % of 10 classes\) after epoch 5") as caught:
            Watch(run, 1000).rows(rows)
        assert "modern" not in str(caught.value)
        with pytest.raises(ProofError, match="--recipe modern, or look at the labels"):
            Watch(dataclasses.replace(run, recipe=recipe("torchvision")), 1000).rows(rows)


def test_a_run_that_learns_nothing_is_stopped_also_when_it_is_resumed(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.watch.SETTLED_STEPS", 4)
    # So small a rate that nothing changes, and answers that are the same for all.
    dead = dataclasses.replace(recipe("torchvision", epochs=20, batch=18, lr=1e-8), init="paper", sides=((0.0, 64),))
    run = dataclasses.replace(tiny_run, recipe=dead)
    for _ in range(2):
        with pytest.raises(ProofError, match=rf"still at chance \(33\.3 % of 3 classes\) after epoch {CHANCE_EPOCHS}"):
            rows_of(run)
        run = dataclasses.replace(run, resume=True)
    assert (tiny_run.output / STATE_FILE).is_file()


class TestDiverged:
    """A state that is lost never takes the place of the last good one."""

    @pytest.fixture
    def exploding(self, tiny_run: Run) -> Run:
        lost = recipe("torchvision", epochs=9, batch=2, lr=100.0)
        return dataclasses.replace(tiny_run, recipe=dataclasses.replace(lost, sides=((0.0, 64),)))

    def test_a_save_by_the_clock(self, exploding: Run) -> None:
        with pytest.raises(
            ProofError, match=r"run: (the loss became|.* is not finite any more after step) .*lower --lr"
        ):
            rows_of(dataclasses.replace(exploding, save_minutes=0.0))
        tensors = load_file(exploding.output / STATE_FILE)
        assert all(bool(torch.isfinite(value).all()) for value in tensors.values())

    def test_a_save_on_a_signal(self, exploding: Run) -> None:
        def stop(step: int, total: int) -> None:
            if step == 8:  # it is lost after two or three, and the epoch has nine
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(ProofError, match="run: the loss became"):
            train(exploding, on_epoch=lambda row: None, on_step=stop)
        assert not exploding.output.exists()


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
