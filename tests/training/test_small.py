"""Little data: what a run says at its end, and cross-validation."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command, RunResult
from tests.helpers.models.tiny_runs import TINY
from tests.helpers.photos import CLASSES, save_photo
from training import folds
from training.loop.run import Run
from training.plan import TrainSettings
from training.run_files import AT_CHANCE

pytestmark = pytest.mark.usefixtures("no_curves", "tiny_network")

FAST = ("--skip-report", "--workers", "0", "--set", "augment=none", "--set", "sides=[[0, 64]]")
"""With ``tiny_network``, a run takes a second."""


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_folder / "train", tmp_path / "photos"))


@pytest.fixture
def train(cli: Command, photos: Path, tmp_path: Path) -> Command:
    return lambda *flags: cli("train", photos, "--output", tmp_path / "run", *FAST, *flags)


def last(result: RunResult, lines: int = 1) -> str:
    return "\n".join(result.err.splitlines()[-lines:])


class TestRun:
    def test_it_says_what_it_does_with_few_images_and_what_it_reached(self, train: Command, tmp_path: Path) -> None:
        result = train("--epochs", "3", "--lr", "0.003")
        assert result.code == 0
        first, second, *_ = result.err.splitlines()
        assert first == (
            "15 training images: batch 8 instead of 128, each image 11 times per epoch, with other crops, a warm-up of "
            "15 steps; 3 epochs of 20 steps"
        )
        assert "add --start shipped" in second
        assert "top-1 100.0 % of 3 validation images, 95 % interval 43.9..100.0; a blind guess has 33.3 %" in last(
            result
        )
        recipe = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").recipe["recipe"]
        assert (recipe["batch"], recipe["repeats"]) == (8, 11)
        again = train("--epochs", "3", "--lr", "0.003", "--resume")
        assert again.code == 0
        assert last(again) == last(result)

    @pytest.mark.parametrize("flags", [("--precision", "bf16"), ()])
    def test_it_says_that_the_asked_precision_is_slow_here(
        self, train: Command, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
    ) -> None:
        monkeypatch.setattr("training.loop.device.cpu_flags", lambda: frozenset({"avx2"}))
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
        said = train("--epochs", "1", "--lr", "0.003", *flags).err
        assert ("--precision bf16: this processor has no instructions for it; fp32" in said) == bool(flags)

    def test_a_file_that_cannot_be_read_does_not_count(self, train: Command, photos: Path, tmp_path: Path) -> None:
        """The recipe is that of the images that are left, also when the run is resumed."""
        (photos / "n01_red" / "0.jpg").write_bytes(b"")
        flags = ("--allow-unreadable", "--epochs", "1", "--val-share", "0.5", "--lr", "0.003")
        result = train(*flags)
        left = load_checkpoint(next((tmp_path / "run").glob("checkpoint*"))).recipe["recipe"]
        images = 9 - ("n01_red/0.jpg" not in result.err)
        noted = re.search(r"^(\d) training images: batch (\d) instead", result.err, re.MULTILINE)
        assert noted is not None
        assert left["batch"] == int(noted[2]) == 8
        assert left["repeats"] == -(-20 * 8 // int(noted[1]))
        assert images >= int(noted[1])
        assert "this run had" not in train(*flags, "--resume").err

    def test_four_photos_are_enough_to_begin(self, cli: Command, tmp_path: Path) -> None:
        for name, colour in list(CLASSES.items())[:2]:
            for number in range(2):
                save_photo(tmp_path / "few" / name / f"{number}.jpg", colour, number)
        result = cli("train", tmp_path / "few", "--output", tmp_path / "run", *FAST, "--epochs", "1", "--lr", "0.003")
        assert "2 training images: batch 2 instead of 128" in result.err
        if result.code == 0:  # either both of the two are right, which proves nothing, or it is chance
            assert "2 validation images cannot tell this from chance; add images, or measure with --folds" in last(
                result
            )
        else:
            assert "the model is not shown to be above chance" in result.error

    def test_an_asked_batch_that_exceeds_them_is_refused(self, train: Command) -> None:
        assert train("--batch", "128").error == (
            "error: --batch 128: exceeds the 15 training images; lower it, or leave it out"
        )

    @pytest.mark.parametrize("resume", [False, True])
    def test_chance_is_an_error_and_leaves_no_checkpoint_of_that_name(
        self, train: Command, tmp_path: Path, resume: bool
    ) -> None:
        dead = ("--epochs", "1", "--lr", "1e-8", "--set", "init=paper", "--set", "standardise=false")
        result = train(*dead)
        if resume:
            result = train(*dead, "--resume")
        assert result.code == 1
        assert result.error.startswith(
            f"error: {tmp_path / 'run'}: the model is not shown to be above chance (top-1 33.3 % of 3 "
        )
        assert (
            f"its weights are in {AT_CHANCE}; measure it on more images (--val, or --folds), or check" in result.error
        )
        assert "wrote" not in result.err
        assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
        assert load_checkpoint(tmp_path / "run" / AT_CHANCE).arch.hidden == TINY["hidden"]

    def test_a_run_that_is_stopped_at_chance_leaves_none_either(
        self, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.loop.divergence.SETTLED_STEPS", 4)
        dead = ("--epochs", "9", "--lr", "1e-8", "--set", "init=paper", "--recipe", "torchvision")
        result = train(*dead, "--set", "repeats=1")
        assert "still at chance" in result.error
        assert {path.name for path in (tmp_path / "run").glob("checkpoint*")} == {AT_CHANCE}

    def test_grey_and_mixed_photos_of_any_size(self, train: Command, photos: Path) -> None:
        folder = photos / "n01_red"
        pixels = np.full((40, 50), 90, np.uint8)
        Image.fromarray(pixels).save(folder / "grey.png")
        Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / "grey16.png")
        Image.fromarray(pixels).convert("RGBA").save(folder / "alpha.png")
        Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
        Image.fromarray(pixels).convert("P").save(folder / "palette.gif")
        Image.new("RGB", (1, 300)).save(folder / "thin.png")
        Image.new("L", (700, 2)).save(folder / "flat.png")
        result = train("--epochs", "1", "--val-share", "0.5", "--set", "repeats=2")
        assert "Traceback" not in result.err
        assert "unreadable" not in result.err
        assert "validation images" in result.err

    def test_a_manifest_with_an_exclusion_list_early_stopping_and_balance(
        self, cli: Command, photo_folder: Path, tmp_path: Path
    ) -> None:
        files = [*sorted((photo_folder / "train").glob("*/*.jpg")), *sorted((photo_folder / "val").glob("*/*.jpg"))]
        rows = [f"{file},{file.parent.name[4:]},{file.parent.parent.name}" for file in files]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
        (tmp_path / "out.txt").write_text(f"{files[0]}\n")
        more = (
            "--set",
            "repeats=4",
            "--exclude",
            tmp_path / "out.txt",
            "--early-stop",
            "2",
            "--balance",
            "sampler",
            "--lr",
            "0.003",
        )
        flags = (*FAST, "--epochs", "4", *more)
        result = cli("train", tmp_path / "labels.csv", "--output", tmp_path / "run", *flags)
        assert result.code == 0, result.err
        assert result.err.startswith("17 training images")
        loaded = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
        assert loaded.contract.class_ids == ("blue", "green", "red")
        assert loaded.recipe["recipe"]["balance"] == "sampler"
        assert "of 6 validation images" in result.err
        measured = cli("evaluate", tmp_path / "run" / "checkpoint.safetensors", tmp_path / "labels.csv", "--workers", 0)
        assert json.loads(measured.out)["images"] == 6


class TestFolds:
    def test_mean_and_spread_come_last_and_a_finished_one_is_not_trained_again(
        self, train: Command, tmp_path: Path
    ) -> None:
        flags = ("--folds", "2", "--epochs", "2", "--lr", "0.003")
        result = train(*flags)
        assert result.code == 0, result.err
        assert last(result).startswith("2 folds: top-1 ")
        assert "for all 18 images" in last(result)
        found: dict[str, Any] = json.loads((tmp_path / "run" / "folds.json").read_text())
        assert [outcome["images"] for outcome in found["outcomes"]] == [9, 9]
        assert found["mean_percent"] == pytest.approx(np.mean([each["top1_percent"] for each in found["outcomes"]]))
        again = train(*flags, "--resume")
        assert last(again) == last(result)
        assert "epoch " not in again.err
        assert "already holds a run; add --resume" in train(*flags).error

    def test_an_early_stop_chooses_epochs_and_the_figures_say_so(self, train: Command, tmp_path: Path) -> None:
        result = train("--folds", "2", "--epochs", "2", "--lr", "0.003", "--early-stop", "1")
        assert result.code == 0, result.err
        assert result.err.splitlines()[-2] == (
            "each fold kept its best epoch, chosen by the images that measure it, so these figures are a bit too high"
        )
        assert result.err.count("kept epoch") == 2
        outcomes = json.loads((tmp_path / "run" / "folds.json").read_text())["outcomes"]
        assert [outcome["chosen"] for outcome in outcomes] == [True, True]

    def test_copies_of_a_photo_do_not_end_it_after_a_fold(self, train: Command, photos: Path) -> None:
        for folder in sorted(photos.iterdir()):
            shutil.copy(folder / "0.jpg", folder / "zz copy.jpg")
        result = train("--folds", "3", "--epochs", "2", "--lr", "0.003", "--set", "repeats=4")
        assert result.code == 0, result.err
        assert "image twice in a class" in result.err

    def test_what_they_begin_with_is_shown_once(self, train: Command, tmp_path: Path) -> None:
        arch = get_architecture("alexnet", num_classes=2, **TINY)
        contract = ModelContract("alexnet", ("cat", "dog"), ("cat", "dog"))
        source = save_checkpoint(
            Checkpoint(arch, contract, AlexNet(arch).state_dict()), tmp_path / "source.safetensors"
        )
        result = train("--folds", "2", "--epochs", "1", "--lr", "0.003", "--start", source)
        assert result.err.count(f"start {source}: alexnet") == 1
        assert result.err.count(" drawn anew ") == 1

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (("--folds", "7"), 1, "error: --folds 7: class 'n01_red' has 6 images; use --folds 6, or add images"),
            (("--folds", "1"), 2, "error: --folds 1: must be 2 or more; 5 is usual"),
            (("--folds", "2", "--val-share", "0.1"), 2, "error: --val-share: the folds choose the validation images"),
        ],
    )
    def test_folds_that_cannot_be_are_one_line(
        self, train: Command, tmp_path: Path, flags: tuple[str, ...], code: int, message: str
    ) -> None:
        result = train(*flags)
        assert result.code == code
        assert result.err.startswith(message)
        assert result.err.count("\n") == 1
        assert not (tmp_path / "run").exists()

    def test_all_folds_at_chance_are_an_error(self, train: Command, tmp_path: Path) -> None:
        dead = ("--epochs", "1", "--lr", "1e-8", "--set", "init=paper", "--set", "standardise=false")
        result = train("--folds", "2", *dead)
        assert result.code == 1
        assert (
            f"{tmp_path / 'run'}: the 2 folds together are not shown to be above chance (top-1 33.3 % in the mean"
            in result.error
        )
        assert (tmp_path / "run" / "fold-2" / AT_CHANCE).is_file()
        assert not (tmp_path / "run" / "folds.json").exists()

    @pytest.mark.parametrize("stopped", [False, True])
    def test_one_fold_at_chance_counts_like_any_other(
        self, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
    ) -> None:
        """Few images may measure chance where all of them together do not; also a fold that is stopped there."""
        if stopped:
            monkeypatch.setattr("training.loop.divergence.SETTLED_STEPS", 4)
            monkeypatch.setattr("training.loop.divergence.CHANCE_EPOCHS", 2)
        plan = folds.plan_run

        def first_is_dead(data: Path, output: Path, settings: TrainSettings, **more: Any) -> Run:
            run = plan(data, output, settings, **more)
            recipe = dataclasses.replace(run.recipe, lr=1e-8, init="paper", standardise=False)
            return dataclasses.replace(run, recipe=recipe) if output.name == "fold-1" else run

        monkeypatch.setattr(folds, "plan_run", first_is_dead)
        result = train("--folds", "3", "--epochs", "2", "--lr", "0.003")
        assert result.code == 0, result.err
        said = "still at chance (33.3 % of 3 classes)" if stopped else "the model is not shown to be above chance"
        assert f"fold-1: {said}" in result.err
        assert last(result).startswith("3 folds: top-1 ")
        assert last(train("--folds", "3", "--epochs", "2", "--lr", "0.003", "--resume")) == last(result)
        assert len(json.loads((tmp_path / "run" / "folds.json").read_text())["outcomes"]) == 3
