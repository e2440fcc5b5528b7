"""A run survives interruptions bit by bit, never loses its last good state and goes on from no other."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, ProofError, UnavailableError
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.limits import files_of_at_most
from tests.helpers.models import tiny_runs as tiny
from training.data.augment import measure_colours
from training.loop.fit import Interrupted, fit
from training.loop.run import EpochMetrics, Run, as_json
from training.recipes.named import get_recipe
from training.run_files import STATE_FILE

CHECKPOINT = "checkpoint.safetensors"
pytestmark = pytest.mark.usefixtures("no_curves")


def stopped(run: Run, *steps: int) -> Path:
    """The folder of ``run``, stopped at each of ``steps`` and resumed to its end."""
    for step in steps:
        with pytest.raises(Interrupted, match=rf"stopped at step {step}, saved; continue with `resume`"):
            tiny.rows_of(run, on_progress=tiny.interrupt_at(step))
        run = dataclasses.replace(run, resume=True)
    tiny.rows_of(run)
    return run.output


@pytest.mark.parametrize(("name", "mix"), [("modern", "cutmix"), ("torchvision", "none"), ("paper", "none")])
def test_stopping_at_any_step_and_resuming_changes_no_bit_and_another_seed_does(
    tiny_run: Run, tmp_path: Path, name: Any, mix: Any
) -> None:
    recipe = get_recipe(name, epochs=2, batch=6, lr=1e-4, sides=tiny.SMALL_PICTURES, mix=mix)
    run = dataclasses.replace(tiny_run, recipe=recipe, seed=2**40)
    before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
    undisturbed, other = (dataclasses.replace(run, output=tmp_path / str(seed), seed=seed) for seed in (2**40, 1))
    assert all(math.isfinite(row.val_loss or math.nan) for each in (undisturbed, other) for row in tiny.rows_of(each))
    output = stopped(run, 1, 3, 5)
    assert tiny.identical(tiny.weights_of(output), tiny.weights_of(undisturbed.output))
    assert not tiny.identical(tiny.weights_of(output), tiny.weights_of(other.output))
    assert [row["epoch"] for row in tiny.metrics_of(output)] == [1, 2]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_paper_lowers_the_rate_on_a_plateau_and_a_resumed_run_remembers_it(tiny_run: Run, tmp_path: Path) -> None:
    # At so small a rate no answer changes, so each epoch after the first adds to the plateau.
    stalling = get_recipe("paper", epochs=4, batch=18, lr=1e-8, patience=2, sides=tiny.SMALL_PICTURES)
    undisturbed = dataclasses.replace(tiny_run, recipe=stalling, output=tmp_path / "undisturbed")
    rates = [1e-8, 1e-8, 1e-8, 1e-9]
    assert [row.lr for row in tiny.rows_of(undisturbed)] == pytest.approx(rates, rel=1e-9)
    output = stopped(dataclasses.replace(undisturbed, output=tmp_path / "stopped"), 1, 3)
    assert [row["lr"] for row in tiny.metrics_of(output)] == pytest.approx(rates, rel=1e-9)
    assert tiny.identical(tiny.weights_of(output), tiny.weights_of(undisturbed.output))
    measured = dataclasses.asdict(measure_colours(tiny_run.train.files, tiny_run.seed))
    assert load_checkpoint(output / CHECKPOINT).recipe["colours"] == as_json(measured)


def test_a_kill_while_the_checkpoint_is_saved_loses_no_checkpoint(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("training.loop.record.writer.save_checkpoint", lambda *_: sys.exit())
        tiny.rows_of(dataclasses.replace(tiny_run, val_every=2))
    assert [row.epoch for row in tiny.rows_of(dataclasses.replace(tiny_run, resume=True))] == [2]
    assert (tiny_run.output / CHECKPOINT).is_file()


def test_validation_comes_every_other_epoch_and_after_the_last_and_leaves_a_checkpoint(tiny_run: Run) -> None:
    run = tiny.changed(tiny_run, recipe={"epochs": 5, "batch": 18}, val_every=2)
    with pytest.raises(Interrupted):
        tiny.rows_of(run, on_progress=tiny.interrupt_at(3, number=signal.SIGTERM))
    checkpoint = load_checkpoint(run.output / CHECKPOINT)
    assert checkpoint.recipe["result"] == tiny.metrics_of(run.output)[1]
    assert checkpoint.recipe["result"]["epoch"] == 2
    # A signal in the last step finishes the run, and is not lost: the command may have more to do.
    with pytest.raises(Interrupted, match="stopped after its last epoch, saved; continue with `resume`"):
        tiny.rows_of(dataclasses.replace(run, resume=True), on_progress=tiny.interrupt_at(5, number=signal.SIGTERM))
    validated = [row["val_top1_percent"] is not None for row in tiny.metrics_of(run.output)]
    assert validated == [False, True, False, True, True]
    assert load_checkpoint(run.output / CHECKPOINT).recipe["result"]["epoch"] == 5


def test_the_state_is_saved_within_an_epoch_when_it_is_time(tiny_run: Run) -> None:
    seen: list[bool] = []
    tiny.rows_of(
        dataclasses.replace(tiny_run, save_every_s=0.0),
        on_progress=lambda *_: seen.append((tiny_run.output / STATE_FILE).exists()),
    )
    assert seen[1:3] == [True, True]  # before the second and the third step, of three in the epoch


class TestDiverged:
    """A lost state never takes the place of the last good one."""

    @pytest.fixture
    def exploding(self, tiny_run: Run) -> Run:
        recipe = get_recipe("torchvision", epochs=9, batch=2, lr=100.0, sides=tiny.SMALL_PICTURES)
        return dataclasses.replace(tiny_run, recipe=recipe)

    @pytest.mark.parametrize("signals", [(), (8,)], ids=["at the end of an epoch", "a save on a signal"])
    def test_nothing_is_saved(self, exploding: Run, signals: tuple[int, ...]) -> None:
        """It is lost after two or three steps, and the epoch has nine."""
        with pytest.raises(ProofError, match=r"run: the loss became (nan|inf) in epoch 1; lower `lr`"):
            tiny.rows_of(exploding, on_progress=tiny.interrupt_at(*signals))
        assert not list(exploding.output.iterdir())

    def test_a_save_by_the_clock(self, exploding: Run) -> None:
        with pytest.raises(ProofError, match=r"run: (the loss became|.* is no longer finite after step) .*lower `lr`"):
            tiny.rows_of(dataclasses.replace(exploding, save_every_s=0.0))
        tensors = load_file(exploding.output / STATE_FILE)
        assert all(bool(value.isfinite().all()) for value in tensors.values())


def test_a_full_disk_keeps_the_last_good_state(tiny_run: Run, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the system refuses the same write."""
    undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
    tiny.rows_of(undisturbed)
    state = tiny_run.output / STATE_FILE
    kept: list[bytes] = []

    with ExitStack() as disk, pytest.raises(UnavailableError) as caught:

        def fill_the_disk(row: EpochMetrics, epochs: int) -> None:
            kept.append(state.read_bytes())
            disk.enter_context(files_of_at_most(len(kept[0]) // 4))

        fit(tiny_run, on_epoch=fill_the_disk)
    assert "\n" not in str(caught.value)
    assert [state.read_bytes()] == kept
    tiny.rows_of(dataclasses.replace(tiny_run, resume=True))
    assert tiny.identical(tiny.weights_of(tiny_run.output), tiny.weights_of(undisturbed.output))
    assert not [path for path in tiny_run.output.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def finished_once(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tiny.run_of(photo_folder, tmp_path_factory.mktemp("finished") / "run", epochs=1, batch=18)
    tiny.rows_of(run)
    return dataclasses.replace(run, resume=True)


@pytest.fixture
def finished(finished_once: Run, tmp_path: Path) -> Run:
    """A run of one epoch, to be resumed."""
    return dataclasses.replace(finished_once, output=Path(shutil.copytree(finished_once.output, tmp_path / "run")))


def test_a_finished_run_only_writes_a_lost_checkpoint_again(finished: Run) -> None:
    path = finished.output / "checkpoint.safetensors"
    before = load_checkpoint(path)
    assert tiny.rows_of(finished) == []
    path.unlink()
    assert tiny.rows_of(finished) == []
    again = load_checkpoint(path)
    assert tiny.identical(again.weights, before.weights)
    assert again.recipe == before.recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "this run had `seed` 0, now it is 1; use the same settings and data, or another `output`"),
        ({"val": {"files": (), "targets": ()}}, "this run had other data; use the same settings"),
        ({"preprocessing": Preprocessing(resize_to=300)}, "had preprocessing.resize_to 256, now it is 300; use"),
        ({"recipe": {"epochs": 2}}, "this run had `epochs` 1, now it is 2; use"),
        ({"recipe": {"flip": False}}, "this run had `overrides` flip=True, now it is False; use"),
        ({"arch": {"overlapping_pool": False}}, "this run had `pool` overlapping, now it is plain; use"),
        ({"arch": {"hidden": 33}}, "had arch.hidden 16, now it is 33; use"),
        (
            {"recipe": get_recipe("torchvision", epochs=1, batch=18)},
            "this run had `recipe` modern, now it is torchvision; use the same settings",
        ),
    ],
)
def test_another_configuration_is_refused(finished: Run, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny.rows_of(tiny.changed(finished, **change))
    assert str(caught.value).startswith(f"{finished.output}: ")
    assert message in str(caught.value)


def test_the_validated_epochs_belong_to_a_run_whose_rate_follows_them(tiny_run: Run) -> None:
    for name, belong in (("modern", False), ("paper", True)):
        run = dataclasses.replace(tiny_run, recipe=get_recipe(name))
        assert (dataclasses.replace(run, val_every=2).config() != run.config()) is belong


def test_a_run_is_resumed_where_there_is_one_and_never_overwritten(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to resume; leave `resume` out"):
        tiny.rows_of(dataclasses.replace(finished, output=tmp_path / "none"))
    with pytest.raises(InputError, match="already holds a run; add `resume` to continue it"):
        tiny.rows_of(dataclasses.replace(finished, resume=False))


def test_two_runs_at_once_do_not_write_one_folder(tiny_run: Run) -> None:
    """Both would save their states in turn, and a resumed run go on from either."""
    other: list[str] = []

    def begin_again(row: EpochMetrics, epochs: int) -> None:
        for resume in (False, True):
            with pytest.raises(UnavailableError) as refused:
                fit(dataclasses.replace(tiny_run, resume=resume))
            other.append(str(refused.value))

    fit(tiny_run, on_epoch=begin_again)
    said = f"`output` {tiny_run.output}: another process writes it; wait for it to end, or choose another place"
    assert set(other) == {said}
    tiny.rows_of(dataclasses.replace(tiny_run, resume=True))  # the lock is free again


@pytest.mark.parametrize("damage", [0, 0.001, 0.9, "a checkpoint in its place", "a field of another type"])
def test_a_damaged_state_is_an_artifact_error(finished: Run, damage: float | str) -> None:
    state = finished.output / STATE_FILE
    if damage == "a checkpoint in its place":
        shutil.copy(finished.output / "checkpoint.safetensors", state)
    elif isinstance(damage, str):
        state.write_bytes(state.read_bytes().replace(b'\\"step\\": 1', b'\\"step\\":[]', 1))
    else:
        state.write_bytes(state.read_bytes()[: int(damage * state.stat().st_size)])
    with pytest.raises(ArtifactError, match="is not a readable training state"):
        tiny.rows_of(finished)


def test_the_format_is_the_one_that_earlier_runs_left(finished: Run) -> None:
    """A field or a prefix of another name would end the runs that people have begun."""
    with safe_open(finished.output / STATE_FILE, framework="pt") as file:
        state = json.loads(file.metadata()["alexnet_deploy.training"])
        prefixes = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert prefixes == {"model", "ema", "optimizer"}
    assert state.keys() == {"step", "config", "rows", "scaler"}
    assert state["config"].keys() == {
        "arch", "recipe", "preprocessing", "seed", "data", "precision", "decoding", "start", "val_every", "colours",
    }  # fmt: skip
    assert state["rows"][0].keys() == {
        "epoch", "lr", "train_loss", "val_loss", "val_top1_percent", "images_per_s", "data_wait_percent",
        "val_class_mean_percent",
    }  # fmt: skip
