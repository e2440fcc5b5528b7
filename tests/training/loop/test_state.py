"""A run goes on only from its own, undamaged state."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, DeployError, InputError
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.tiny_runs import identical, rows_of, run_of
from training.loop.run import Run
from training.loop.state import STATE_FILE
from training.recipes import get_recipe

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def finished_once(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = run_of(photo_folder, tmp_path_factory.mktemp("finished") / "run", epochs=1, batch=18)
    rows_of(run)
    return dataclasses.replace(run, resume=True)


@pytest.fixture
def finished(finished_once: Run, tmp_path: Path) -> Run:
    """A run of one epoch, to be resumed."""
    return dataclasses.replace(finished_once, output=Path(shutil.copytree(finished_once.output, tmp_path / "run")))


def test_a_finished_run_has_nothing_left_to_do(finished: Run) -> None:
    assert rows_of(finished) == []


def test_a_finished_run_writes_a_lost_checkpoint_again(finished: Run) -> None:
    path = finished.output / "checkpoint.safetensors"
    before = load_checkpoint(path)
    path.unlink()
    assert rows_of(finished) == []
    again = load_checkpoint(path)
    assert identical(again.weights, before.weights)
    assert again.recipe == before.recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "this run had seed 0, now it is 1; use the same settings and data, or another `output`"),
        ({"data_digest": "other"}, "this run had other data; use the same settings"),
        ({"preprocessing": Preprocessing(resize_to=300)}, "had preprocessing.resize_to 256, now it is 300; use"),
        ({"recipe": {"epochs": 2}}, "this run had recipe.epochs 1, now it is 2; use"),
        ({"arch": {"hidden": 33}}, "had arch.hidden 16, now it is 33; use"),
        (
            {"recipe": get_recipe("torchvision", epochs=1, batch=18)},
            "recipe.name modern, now it is torchvision, and recipe.optimizer adamw, now it is sgd, and "
            "recipe.lr 0.0005, now it is 0.01 (and ",
        ),
    ],
)
def test_another_configuration_is_refused(finished: Run, change: dict[str, Any], message: str) -> None:
    changes = {
        name: dataclasses.replace(getattr(finished, name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(InputError) as caught:
        rows_of(dataclasses.replace(finished, **changes))
    assert str(caught.value).startswith(f"{finished.output}: ")
    assert message in str(caught.value)


def test_the_validated_epochs_belong_to_a_run_whose_rate_follows_them(tiny_run: Run) -> None:
    for name, belong in (("modern", False), ("paper", True)):
        run = dataclasses.replace(tiny_run, recipe=get_recipe(name))
        assert (dataclasses.replace(run, val_every=2).config() != run.config()) is belong


@pytest.mark.parametrize(
    ("resume", "message"),
    [(True, "holds no run to resume; leave `resume` out"), (False, "already holds a run; add `resume` to continue it")],
)
def test_a_run_is_resumed_where_there_is_one_and_never_overwritten(
    finished: Run, tmp_path: Path, resume: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(dataclasses.replace(finished, resume=resume, output=tmp_path / "none" if resume else finished.output))


@pytest.mark.parametrize("damage", [0, 0.001, 0.9, "a checkpoint in its place", "a field of another type"])
def test_a_damaged_state_is_an_artifact_error(finished: Run, damage: float | str) -> None:
    state = finished.output / STATE_FILE
    if damage == "a checkpoint in its place":
        shutil.copy(finished.output / "checkpoint.safetensors", state)
    elif isinstance(damage, str):
        state.write_bytes(state.read_bytes().replace(b'\\"step\\": 1', b'\\"step\\":[]', 1))
    else:
        state.write_bytes(state.read_bytes()[: int(damage * state.stat().st_size)])
    with pytest.raises(DeployError, match="is not a readable training state") as caught:
        rows_of(finished)
    assert isinstance(caught.value, ArtifactError)


def test_the_format_is_the_one_that_earlier_runs_left(finished: Run) -> None:
    """A field or a prefix of another name would end the runs that people have begun."""
    with safe_open(finished.output / STATE_FILE, framework="pt") as file:
        state = json.loads(file.metadata()["alexnet_deploy.training"])
        prefixes = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert prefixes == {"model", "ema", "optimizer"}
    assert state.keys() == {"step", "config", "rows", "scaler"}
    assert state["config"].keys() == {
        "arch", "recipe", "preprocessing", "seed", "data", "precision", "start", "val_every", "colours",
    }  # fmt: skip
    assert state["rows"][0].keys() == {
        "epoch", "lr", "train_loss", "val_loss", "val_top1_percent", "images_per_s", "data_wait_percent",
    }  # fmt: skip
