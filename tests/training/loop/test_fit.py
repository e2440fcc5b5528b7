"""A run survives interruptions bit by bit and never loses its last good state."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import ProofError, UnavailableError
from alexnet_deploy.model.checkpoint import load_checkpoint
from alexnet_deploy.progress import no_progress
from tests.helpers.tiny_runs import SMALL_PICTURES, identical, interrupt_at, rows_of, weights_of
from training.data.augment import measure_colours
from training.loop.fit import Interrupted, fit
from training.loop.run import EpochMetrics, Run
from training.loop.state import STATE_FILE
from training.recipes import get_recipe

CHECKPOINT = "checkpoint.safetensors"
pytestmark = pytest.mark.usefixtures("no_curves")


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_seed_decides_the_weights(tiny_run: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 2**40), ("b", 2**40), ("c", 1)):
        rows_of(dataclasses.replace(tiny_run, output=tmp_path / name, seed=seed))
    assert identical(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert not identical(weights_of(tmp_path / "a"), weights_of(tmp_path / "c"))


@pytest.mark.parametrize("name", ["modern", "torchvision", "paper"])
def test_stopping_at_any_step_and_resuming_changes_no_bit(tiny_run: Run, tmp_path: Path, name: Any) -> None:
    recipe = dataclasses.replace(get_recipe(name, epochs=2, batch=6, lr=1e-4), sides=SMALL_PICTURES)
    tiny_run = dataclasses.replace(tiny_run, recipe=recipe)
    before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
    undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
    rows_of(undisturbed)
    run = dataclasses.replace(tiny_run, output=tmp_path / "stopped")
    for step in (1, 3, 5):
        with pytest.raises(Interrupted, match=rf"stopped at step {step}, saved; go on with `resume`"):
            rows_of(run, on_progress=interrupt_at(step))
        run = dataclasses.replace(run, resume=True)
    rows_of(run)
    assert identical(weights_of(run.output), weights_of(undisturbed.output))
    assert [row["epoch"] for row in metrics(run.output)] == [1, 2]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_paper_lowers_the_rate_on_a_plateau_and_a_resumed_run_remembers_it(tiny_run: Run, tmp_path: Path) -> None:
    # At so small a rate no answer changes, so each epoch after the first adds to the plateau.
    stalling = dataclasses.replace(get_recipe("paper", epochs=4, batch=18, lr=1e-8), patience=2, sides=SMALL_PICTURES)
    undisturbed = dataclasses.replace(tiny_run, recipe=stalling, output=tmp_path / "undisturbed")
    rates = [1e-8, 1e-8, 1e-8, 1e-9]
    assert [row.lr for row in rows_of(undisturbed)] == pytest.approx(rates, rel=1e-9)
    run = dataclasses.replace(undisturbed, output=tmp_path / "stopped")
    for step in (1, 3):
        with pytest.raises(Interrupted):
            rows_of(run, on_progress=interrupt_at(step))
        run = dataclasses.replace(run, resume=True)
    rows_of(run)
    assert [row["lr"] for row in metrics(run.output)] == pytest.approx(rates, rel=1e-9)
    assert identical(weights_of(run.output), weights_of(undisturbed.output))
    colours = load_checkpoint(run.output / CHECKPOINT).recipe["colours"]
    measured = dataclasses.asdict(measure_colours(run.train.files, run.seed))
    assert colours == json.loads(json.dumps(measured))


def test_a_signal_in_the_last_step_finishes_the_run(tiny_run: Run) -> None:
    rows_of(tiny_run, on_progress=interrupt_at(6, number=signal.SIGTERM))
    assert (tiny_run.output / CHECKPOINT).is_file()


def test_a_kill_while_the_checkpoint_is_saved_loses_no_checkpoint(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("training.loop.writer.save_checkpoint", lambda *_: sys.exit())
        rows_of(dataclasses.replace(tiny_run, val_every=2))
    assert [row.epoch for row in rows_of(dataclasses.replace(tiny_run, resume=True))] == [2]
    assert (tiny_run.output / CHECKPOINT).is_file()


def test_a_stopped_run_leaves_the_checkpoint_of_its_last_validation(tiny_run: Run) -> None:
    run = dataclasses.replace(tiny_run, recipe=dataclasses.replace(tiny_run.recipe, epochs=4, batch=18), val_every=2)
    with pytest.raises(Interrupted):
        rows_of(run, on_progress=interrupt_at(3, number=signal.SIGTERM))
    checkpoint = load_checkpoint(run.output / CHECKPOINT)
    assert checkpoint.recipe["result"] == metrics(run.output)[1]
    assert checkpoint.recipe["result"]["epoch"] == 2


def test_validation_comes_every_other_epoch_and_after_the_last(tiny_run: Run) -> None:
    run = dataclasses.replace(tiny_run, recipe=dataclasses.replace(tiny_run.recipe, epochs=3, batch=18), val_every=2)
    assert [row.val_top1_percent is not None for row in rows_of(run)] == [False, True, True]


def test_small_pictures_train_and_the_checkpoint_takes_large_ones(tiny_run: Run) -> None:
    small = dataclasses.replace(tiny_run.recipe, epochs=1, batch=18, sides=((0.0, 96),), mix="cutmix")
    row = rows_of(
        dataclasses.replace(
            tiny_run,
            recipe=small,
        )
    )[0]
    assert row.val_loss is not None
    assert math.isfinite(row.val_loss)
    assert load_checkpoint(tiny_run.output / CHECKPOINT).contract.preprocessing.height == 224


def test_the_state_is_saved_within_an_epoch_when_it_is_time(tiny_run: Run) -> None:
    seen: list[bool] = []
    tiny_run.output.mkdir()
    rows_of(
        dataclasses.replace(tiny_run, save_every_s=0.0),
        on_progress=lambda *_: seen.append((tiny_run.output / STATE_FILE).exists()),
    )
    assert seen[1:3] == [True, True]  # before the second and the third step, of three in the epoch


class TestDiverged:
    """A lost state never takes the place of the last good one."""

    @pytest.fixture
    def exploding(self, tiny_run: Run) -> Run:
        recipe = get_recipe("torchvision", epochs=9, batch=2, lr=100.0, sides=SMALL_PICTURES)
        return dataclasses.replace(tiny_run, recipe=recipe)

    def test_at_the_end_of_an_epoch(self, exploding: Run) -> None:
        with pytest.raises(ProofError, match=r"run: the loss became (nan|inf) in epoch 1; lower `lr`"):
            rows_of(exploding)
        assert not exploding.output.exists()

    def test_a_save_by_the_clock(self, exploding: Run) -> None:
        from safetensors.torch import load_file

        with pytest.raises(
            ProofError, match=r"run: (the loss became|.* is not finite any more after step) .*lower `lr`"
        ):
            rows_of(dataclasses.replace(exploding, save_every_s=0.0))
        tensors = load_file(exploding.output / STATE_FILE)
        assert all(bool(value.isfinite().all()) for value in tensors.values())

    def test_a_save_on_a_signal(self, exploding: Run) -> None:
        with pytest.raises(ProofError, match="run: the loss became"):
            rows_of(exploding, on_progress=interrupt_at(8))  # it is lost after two or three, and the epoch has nine
        assert not exploding.output.exists()


def test_a_full_disk_keeps_the_last_good_state(tiny_run: Run, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the system refuses the same write."""
    undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
    rows_of(undisturbed)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = tiny_run.output / STATE_FILE
    kept: list[bytes] = []

    def fill_the_disk(row: EpochMetrics) -> None:
        kept.append(state.read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[0]) // 4, limits[1]))

    try:
        with pytest.raises(UnavailableError) as caught:
            fit(tiny_run, on_epoch=fill_the_disk, on_progress=no_progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [state.read_bytes()] == kept
    rows_of(dataclasses.replace(tiny_run, resume=True))
    assert identical(weights_of(tiny_run.output), weights_of(undisturbed.output))
    assert not [path for path in tiny_run.output.iterdir() if path.name.startswith(".")]
