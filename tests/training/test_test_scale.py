"""The last epochs of a run, on pictures as inference sees them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import InputError, ProofError, UnavailableError
from alexnet_deploy.files.lock import only_writer
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.command import Command
from tests.helpers.models import tiny_runs as tiny
from training.data.loader import TrainingCrops
from training.epochs import AT_TEST_SCALE, Epochs, epochs_of
from training.loop.fit import Interrupted, fit
from training.loop.run import Run
from training.recipes.named import RECIPES
from training.results.outcome import AtChance, read_outcome
from training.run_files import AT_CHANCE
from training.test_scale import START, ScaleSettings, check_last_epochs, end_at_test_scale, recipe_at_test_scale

pytestmark = pytest.mark.usefixtures("no_curves")
ONE = ScaleSettings(test_scale_epochs=1, test_scale_lr=1e-3)


def convolutions_differ(one: Path, other: Path) -> tuple[bool, bool]:
    """Whether any convolution differs between two checkpoints, and whether every dense layer does."""
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    same = {name: bool((first[name] == second[name]).all()) for name in first if name.endswith("weight")}
    convolutions = [same[name] for name in same if name.startswith("features")]
    return not all(convolutions), not any(same[name] for name in same if name.startswith("classifier"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_pictures_are_those_of_inference_or_their_mirror_images(tiny_run: Run, name: str) -> None:
    recipe = recipe_at_test_scale(RECIPES[name], ONE)
    crops = TrainingCrops(tiny_run.train, tiny_run.preprocessing, recipe, seed=0)
    mirrored = set()
    for index, file in enumerate(tiny_run.train.files):
        pixels_HWC, target = crops[(0, index)]
        seen = load_pixels(file, tiny_run.preprocessing)
        mirrored.add(np.array_equal(pixels_HWC, seen[:, ::-1]))
        assert np.array_equal(pixels_HWC, seen) or np.array_equal(pixels_HWC, seen[:, ::-1])
        assert target == tiny_run.train.targets[index]
    assert mirrored == {True, False}


@pytest.mark.parametrize("conv_lr", [None, 1e-4])
def test_the_convolutions_are_fixed_or_slow_and_the_result_replaces_the_checkpoint(
    tiny_run: Run, conv_lr: float | None
) -> None:
    own = fit(tiny_run)
    before = load_checkpoint(own)
    settings = dataclasses.replace(ONE, test_scale_conv_lr=conv_lr)
    assert end_at_test_scale(tiny_run, settings) == own
    start = tiny_run.output / "test-scale" / START
    assert tiny.identical(load_checkpoint(start).weights, before.weights)
    assert convolutions_differ(start, own) == (conv_lr is not None, True)
    recipe = load_checkpoint(own).recipe
    assert recipe["recipe"] == before.recipe["recipe"]
    assert recipe[AT_TEST_SCALE]["recipe"]["conv_lr"] == (conv_lr or 0.0)
    assert (recipe["result"]["epoch"], recipe[AT_TEST_SCALE]["result_before"]["epoch"]) == (3, 2)


def test_a_stopped_run_resumes_bit_by_bit_whichever_epochs_it_is_in(tiny_run: Run, tmp_path: Path) -> None:
    undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
    fit(undisturbed)
    end_at_test_scale(undisturbed, ONE)
    fit(tiny_run)
    resumed = dataclasses.replace(tiny_run, resume=True)
    with pytest.raises(Interrupted, match=r"test-scale: stopped at step 2"):
        end_at_test_scale(tiny_run, ONE, on_progress=tiny.interrupt_at(2))
    fit(resumed)
    end_at_test_scale(resumed, ONE)
    whole = tiny.weights_of(undisturbed.output)
    assert tiny.identical(tiny.weights_of(tiny_run.output), whole)
    # A finished run only says again what it has.
    fit(resumed)
    end_at_test_scale(resumed, ONE)
    assert tiny.identical(tiny.weights_of(tiny_run.output), whole)
    assert load_checkpoint(tiny_run.output / "checkpoint.safetensors").recipe["result"]["epoch"] == 3
    with pytest.raises(InputError, match="this run ends at test scale; give the `test_scale_epochs` that it had"):
        check_last_epochs(resumed, ScaleSettings())
    with pytest.raises(InputError, match=r"test-scale: already holds a run; add `resume`"):
        check_last_epochs(tiny_run, ONE)
    (tiny_run.output / "test-scale" / "state.safetensors").unlink()
    with pytest.raises(InputError, match=r"already ends at test scale, and .*test-scale is gone"):
        end_at_test_scale(resumed, ONE)


def test_a_folder_that_another_process_writes_stays_as_it_is(tiny_run: Run) -> None:
    fit(tiny_run)
    with only_writer(tiny_run.output, "output"), pytest.raises(UnavailableError, match="another process writes it"):
        end_at_test_scale(tiny_run, ONE)
    assert not (tiny_run.output / "test-scale").exists()


@pytest.fixture
def good(tiny_run: Run) -> Run:
    """Tells the colours after six epochs."""
    recipe = {"epochs": 6, "ema_decay": None, "lr": 0.003, "warmup_epochs": 1.0}
    run = tiny.changed(tiny_run, recipe=recipe, arch={"dropout": 0.0})
    assert tiny.rows_of(run)[-1].val_top1_percent == 100
    return run


class TestRuined:
    """Epochs at test scale that end a good model at chance: its weights are what is kept."""

    @pytest.mark.parametrize("rate", [5.0, 1e-5])
    def test_the_good_model_stays_and_is_named(self, good: Run, rate: float) -> None:
        settings = ScaleSettings(test_scale_epochs=1, test_scale_lr=rate)
        before = tiny.weights_of(good.output)
        if rate < 1:
            end_at_test_scale(good, settings)
            assert (good.output / "test-scale" / "checkpoint.safetensors").is_file()
            return
        for run in (good, dataclasses.replace(good, resume=True)):
            with pytest.raises(AtChance) as caught:
                end_at_test_scale(run, settings)
            assert re.search(
                r"/run: after the epochs at test scale the model is not shown to be above chance \(top-1 .*\); "
                r"checkpoint.safetensors is the model before them, with top-1 100.0 %; lower `test_scale_lr` \(it was",
                str(caught.value),
            )
            assert (caught.value.outcome.epoch, caught.value.outcome.test_scale_epochs) == (6, 1)
            assert tiny.identical(tiny.weights_of(good.output), before)
            assert AT_TEST_SCALE not in load_checkpoint(good.output / "checkpoint.safetensors").recipe
            left = {path.name for path in (good.output / "test-scale").glob("*.safetensors")}
            assert left == {START, AT_CHANCE, "state.safetensors"}

    def test_a_loss_that_is_no_number_names_the_rate_and_the_good_model(self, good: Run) -> None:
        before = tiny.weights_of(good.output)
        run = tiny.changed(good, recipe={"optimizer": "sgd", "clip_norm": None})
        with pytest.raises(
            ProofError, match=r"lower `test_scale_lr` .*; .*run/checkpoint.safetensors is the model before"
        ):
            end_at_test_scale(run, ScaleSettings(test_scale_epochs=9, test_scale_lr=100.0))
        assert tiny.identical(tiny.weights_of(good.output), before)


def test_after_an_early_end_the_epochs_are_those_that_were(tiny_run: Run) -> None:
    run = tiny.changed(tiny_run, recipe={"epochs": 9, "batch": 18, "lr": 1e-8, "ema_decay": None}, early_stop=1)
    trained = len(tiny.rows_of(run))
    kept = load_checkpoint(run.output / "checkpoint.safetensors").recipe["result"]["epoch"]
    end_at_test_scale(run, ONE)
    recipe = load_checkpoint(run.output / "checkpoint.safetensors").recipe
    assert recipe["result"]["epoch"] == kept + 1
    outcome = read_outcome(run)
    assert (outcome.epoch, outcome.epochs, outcome.chosen, outcome.test_scale_epochs) == (kept, trained, True, 1)
    assert epochs_of(recipe, trained) == Epochs(kept, trained, 9, True, 1)


class TestCommand:
    @pytest.fixture
    def small(self, photo_folder: Path, tmp_path: Path) -> tuple[object, ...]:
        fast = (
            "--set",
            "augment=none",
            "--set",
            "sides=[[0, 64]]",
            "--skip-preflight",
            "--skip-report",
            "--workers",
            0,
        )
        return ("train", photo_folder, "--output", tmp_path / "run", "--batch", 9, *fast)

    def test_a_run_ends_with_them_and_a_finished_checkpoint_gets_them_alone(
        self, cli: Command, small: tuple[object, ...], photo_folder: Path, tmp_path: Path
    ) -> None:
        last = ("--test-scale-epochs", 1, "--test-scale-lr", 0.001)
        # At chance or not: eighteen photos and two steps decide nothing.
        cli(*small, "--dense-rank", 4, "--epochs", 1, *last)
        start = tmp_path / "run" / "test-scale" / START
        assert load_checkpoint(start).recipe["recipe"]["name"] == "modern"
        alone = ("train", photo_folder, "--output", tmp_path / "alone", "--skip-report", "--workers", 0, "--batch", 9)
        cli(*alone, "--start", start, "--epochs", 0, *last)
        (checkpoint,) = (tmp_path / "alone").glob("checkpoint*.safetensors")
        assert convolutions_differ(start, checkpoint) == (False, True)
        assert load_checkpoint(checkpoint).recipe["recipe"]["view"] == "inference"
        assert not (tmp_path / "alone" / "test-scale").exists()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ("--test-scale-lr 0.1", "--test-scale-lr 0.1: has no effect without --test-scale-epochs; add it"),
            ("--test-scale-conv-lr 0", "--test-scale-conv-lr 0.0: has no effect without --test-scale-epochs; add it"),
            ("--test-scale-epochs 1 --test-scale-lr 0", "--test-scale-lr 0.0: must be a number from 1e-08 to 100"),
            ("--test-scale-epochs 1 --test-scale-conv-lr -1", "--test-scale-conv-lr -1.0: must be a number from 0 to"),
            ("--test-scale-epochs 1 --test-scale-lr nan", "--test-scale-lr nan: must be a number from 1e-08 to 100"),
            ("--epochs 0 --test-scale-epochs 1", "--epochs 0: leaves nothing to train at test scale; give the --start"),
            ("--lr 1e-8 --test-scale-epochs 1", "--lr 1e-08: a tenth of it, the rate of --test-scale-epochs, is below"),
            ("--start shipped --epochs 0 --lr 5e-8 --test-scale-epochs 1", "--lr 5e-08: a tenth of it, the rate of"),
            (
                "--start shipped --freeze features --test-scale-epochs 1 --test-scale-conv-lr 1e-5",
                "--test-scale-conv-lr 1e-05: has no effect with --freeze features; leave one of the two out",
            ),
            ("--epochs 0", "--epochs 0: must be a whole number from 1"),
        ],
    )
    def test_what_cannot_be(self, cli: Command, small: tuple[object, ...], flags: str, message: str) -> None:
        code, _, err = cli(*small, *flags.split())
        assert code == 2
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1

    @pytest.mark.slow
    def test_compress_may_end_with_them_or_have_them_alone(
        self, cli: Command, tiny_run: Run, photo_folder: Path, tmp_path: Path
    ) -> None:
        fit(tiny.changed(tiny_run, recipe={"epochs": 1, "batch": 18}))
        full = tiny_run.output / "checkpoint.safetensors"
        for name, tuning in (("both", ("--epochs", 1)), ("alone", ())):
            out = tmp_path / f"{name}.safetensors"
            command = ("compress", full, photo_folder, "--rank", 4, "--images", 9, "--workers", 0, "--output", out)
            last = (*tuning, "--batch", 9, "--test-scale-epochs", 1, "--test-scale-lr", 0.001)
            assert cli(*command, *last).code == 0
            small = load_checkpoint(out)
            assert small.recipe["compressed"]["rank"] == 4
            start = tmp_path / f"{name}.run" / ("test-scale" if tuning else "") / START
            assert convolutions_differ(start, out) == (False, True)
            assert cli(*command, *last, "--resume").code == 0
            assert tiny.identical(load_checkpoint(out).weights, small.weights)
        assert "this run ends at test scale" in cli(
            "compress", full, photo_folder, "--rank", 4, "--images", 9, "--workers", 0, "--output",
            tmp_path / "both.safetensors", "--epochs", 1, "--batch", 9, "--resume",
        ).err  # fmt: skip
