"""``train --start``: what a run takes from trained weights, what it says about them, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.model.architecture import get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES
from tests.training.start.files import SMALL, small_checkpoint, small_weights
from training.data.lists.folds import fold_splits
from training.data.lists.splits import list_splits, list_training
from training.loop.run import Run
from training.recipes.named import get_recipe
from training.start.seen import MAY_KNOW, may_know
from training.start.sources import read_source

RED, GREEN, BLUE = CLASSES
RAW = (1 / 255, 1 / 255, 1 / 255)


@pytest.fixture
def train(cli: Command, photo_folder: Path, tmp_path: Path) -> Command:
    return lambda *flags: cli("train", photo_folder, "--output", tmp_path / "run", *flags)


def saved(path: Path, checkpoint: Checkpoint) -> Path:
    return save_checkpoint(checkpoint, path / "start.safetensors")


class TestTaken:
    def test_network_pixels_and_recipe_come_from_the_source(
        self, train: Command, planned: list[Run], tmp_path: Path
    ) -> None:
        arch = dataclasses.replace(SMALL, dense_rank=2, activation="tanh", dropout=0.1)
        contract = dataclasses.replace(small_checkpoint("a", "b", "c").contract, preprocessing=Preprocessing(std=RAW))
        start = saved(tmp_path, Checkpoint(arch, contract, small_weights(rank=2)))
        assert train("--start", start, "--batch", "6").code == 0
        run = planned[0]
        assert run.arch == arch
        assert run.preprocessing == Preprocessing(std=RAW)
        assert (run.recipe.name, run.recipe.pixel_std) == ("transfer", RAW)
        assert run.labels == tuple(CLASSES), "its own labels are those of other classes"
        assert run.start is not None
        assert run.start.arch == arch

    def test_flags_win_where_the_weights_allow_it(self, train: Command, planned: list[Run], tmp_path: Path) -> None:
        start = saved(tmp_path, small_checkpoint("a", "b", "c"))
        flags = "--activation tanh --pool plain --dropout 0 --resize shorter-side --recipe finetune --head-lr 0.01"
        assert train("--start", start, *flags.split(), "--freeze", "features", "--unfreeze-every", "3").code == 0
        run = planned[0]
        assert run.arch == dataclasses.replace(SMALL, activation="tanh", overlapping_pool=False, dropout=0.0)
        assert run.preprocessing == Preprocessing(std=(0.25,) * 3)
        recipe = run.recipe
        assert (recipe.name, recipe.head_lr, recipe.freeze, recipe.unfreeze_every) == ("finetune", 0.01, "features", 3)

    def test_the_same_classes_keep_their_labels(self, train: Command, planned: list[Run], tmp_path: Path) -> None:
        start = saved(tmp_path, small_checkpoint(BLUE, RED, GREEN))
        result = train("--start", start)
        assert "classifier.6" in result.err
        assert "loaded by name" in result.err
        assert "the source has the same classes in another order" in result.err
        run = planned[0]
        assert run.labels == tuple(f"the {class_id}" for class_id in CLASSES)
        assert run.start is not None
        rows = small_weights()["classifier.6.weight"][[1, 2, 0]]
        assert torch.equal(run.start.weights["classifier.6.weight"], rows)

    @pytest.mark.parametrize(
        ("class_ids", "recorded", "doubtful"),
        [
            ((RED, GREEN, BLUE), "nothing", True),
            ((RED, "b", "c"), "other images", True),
            ((RED, GREEN, BLUE), "these images", False),
            ((RED, GREEN, BLUE), "these images, from others", True),
            (("a", "b", "c"), "other images", False),
        ],
    )
    def test_weights_that_may_know_the_validation_images_are_noted(
        self,
        train: Command,
        planned: list[Run],
        photo_folder: Path,
        tmp_path: Path,
        class_ids: tuple[str, ...],
        recorded: str,
        doubtful: bool,
    ) -> None:
        digest = "".join(images.digest() for images in list_splits(photo_folder))
        recipe: dict[str, Any] = {"data": digest if recorded.startswith("these") else "0" * len(digest)}
        if recorded == "these images, from others":
            recipe["started_from"] = {"source": "x", MAY_KNOW: True}
        checkpoint = dataclasses.replace(small_checkpoint(*class_ids), recipe={} if recorded == "nothing" else recipe)
        result = train("--start", saved(tmp_path, checkpoint))
        assert ("may have been trained on some of its validation images; the accuracy" in result.err) == doubtful
        run = planned[0]
        assert run.start is not None
        assert run.start.recipe["started_from"][MAY_KNOW] is doubtful

    def test_folds_and_other_seeds_hold_out_images_that_a_run_was_trained_on(
        self, photo_folder: Path, tmp_path: Path
    ) -> None:
        data = photo_folder / "train"
        own = list_splits(data, seed=0)
        recipe = {"data": own[0].digest() + own[1].digest()}
        source = read_source(saved(tmp_path, dataclasses.replace(small_checkpoint(*CLASSES), recipe=recipe)))
        assert not may_know(source, *own)
        assert may_know(source, *list_splits(data, seed=1))
        assert all(may_know(source, *split) for split in fold_splits(list_training(data)[0], 2, seed=0))
        compressed = dataclasses.replace(source, recipe={"compressed": {"parent_recipe": recipe}})
        assert not may_know(compressed, *own)
        assert may_know(compressed, *list_splits(data, seed=1))

    def test_without_a_start_nothing_changes(self, train: Command, planned: list[Run]) -> None:
        assert train("--batch", "6").code == 0
        run = planned[0]
        assert (run.recipe.name, run.arch) == ("modern", get_architecture("alexnet", num_classes=3))
        assert run.preprocessing == Preprocessing()

    def test_a_table_says_what_was_loaded_drawn_and_left_over(
        self, train: Command, planned: list[Run], tmp_path: Path
    ) -> None:
        tensors = {f"backbone.{key}": value for key, value in small_weights().items()}
        tensors |= {f"head.{number}.weight": torch.ones(1) for number in range(20)}
        torch.save({"state_dict": tensors}, tmp_path / "other.pth")
        lines = train("--start", tmp_path / "other.pth").err.splitlines()
        assert lines[0].startswith(f"start {tmp_path / 'other.pth'}: alexnet, full rank; shorter side to 256")
        assert "weights: state_dict, prefix backbone.; their shapes are alexnet's" in lines
        table = [" ".join(line.split()) for line in lines]
        assert "features.3 192 x 64 x 5 x 5 loaded" in table
        assert "classifier.6 3 x 8 drawn anew the source does not name its classes" in table
        assert "head.0.weight left over" in table
        assert "and 13 more left over" in table


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            ("--start START --arch alexnet-2012", 2, "--arch alexnet-2012: --start START holds alexnet; leave"),
            ("--start START --dense-rank 4", 2, "--dense-rank 4: --start START has full rank; leave --dense"),
            ("--start START --groups 1,2,1,2,2", 2, "--groups 1,2,1,2,2: --start START has 1,1,1,1,1; leave"),
            ("--start START --recipe modern", 2, "--start: the recipe modern standardises convolutions, which would"),
            ("--start START --freeze features --recipe modern", 2, "--freeze features: the recipe modern standardises"),
            ("--start START --unfreeze-every 2", 2, "--unfreeze-every 2: nothing is frozen; add --freeze features or"),
            ("--start START --head-lr 0", 2, "--head-lr 0.0: must be a number from 1e-08 to 100, or null"),
            ("--freeze all-but-head", 2, "--freeze all-but-head: there are no trained weights to keep; add --start"),
            ("--start nowhere.pth", 1, "--start nowhere.pth: no such file or folder; give a file, an https address,"),
            ("--set head_lr=1", 2, "--set head_lr=1: head_lr has its own option; use --head-lr"),
        ],
    )  # fmt: skip
    @pytest.mark.usefixtures("planned")
    def test_in_one_line_before_anything_is_written(
        self, train: Command, tmp_path: Path, flags: str, code: int, message: str
    ) -> None:
        start = str(saved(tmp_path, small_checkpoint("a", "b", "c")))
        result = train(*flags.replace("START", start).split())
        assert result.code == code
        assert result.error.startswith(f"error: {message.replace('START', start)}")
        assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_curves")
def test_a_run_begins_with_a_run_of_other_classes(train: Command, tmp_path: Path) -> None:
    saved_run = tmp_path / "first"
    saved_run.mkdir()
    first = small_checkpoint("a", "b", "c")
    save_checkpoint(first, saved_run / "checkpoint.safetensors")
    fast = ("--epochs", "1", "--workers", "0", "--set", "sides=[[0, 64]]", "--skip-preflight", "--batch", "6")
    train("--start", saved_run, "--freeze", "all-but-head", *fast)  # three steps may end at chance, which is no matter
    trained = load_checkpoint(next(path for path in (tmp_path / "run").glob("checkpoint*.safetensors")))
    kept = [key for key in first.weights if not key.startswith("classifier.6.")]
    assert all(torch.equal(trained.weights[key], first.weights[key]) for key in kept)
    assert trained.recipe["started_from"] == {
        "source": "first", "architecture": "alexnet", "drawn_anew": ["classifier.6"], MAY_KNOW: False,
    }  # fmt: skip
    assert trained.contract.preprocessing == first.contract.preprocessing


def test_transfer_has_a_faster_last_layer_and_plain_convolutions() -> None:
    recipe = get_recipe("transfer")
    assert recipe.head_lr == 10 * recipe.lr
    assert not recipe.standardise
