"""What a step may be told: standardised weights, precision, compiling, sides, mixed pictures, settings of a recipe."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import AlexNet, architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.repository import ROOT
from tests.helpers.tiny_runs import rows_of, run_of
from training.__main__ import main
from training.augment import cut_and_paste
from training.data import TrainingCrops
from training.listing import list_folder
from training.policies import Policy
from training.recipes import RECIPES, Recipe, recipe, with_settings
from training.run import Run
from training.standardise import plain_weights, standardise_convolutions
from training.step import Trainer, check_precision


@pytest.fixture
def tiny_run(photo_folder: Path, tmp_path: Path) -> Run:
    """One epoch of two steps."""
    return run_of(photo_folder, tmp_path / "run", epochs=1, batch=9, dropout=0.0)


class TestStandardised:
    def model(self) -> AlexNet:
        torch.manual_seed(0)
        model = AlexNet(architecture("alexnet-2012", num_classes=3, hidden=16))
        initialise(model, "kaiming")
        return model.eval()

    def test_each_output_channel_has_mean_0_and_kaimings_deviation(self) -> None:
        model = self.model()
        standardise_convolutions(model)
        for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
            weights = layer.weight.flatten(1)
            fan_in = weights.shape[1]  # of its group
            torch.testing.assert_close(weights.mean(1), torch.zeros(len(weights)), rtol=0, atol=1e-6)
            deviation = torch.full((len(weights),), math.sqrt(2 / fan_in))
            torch.testing.assert_close(weights.std(1, unbiased=False), deviation, rtol=1e-4, atol=0)

    def test_what_ships_is_an_ordinary_network_that_answers_alike(self) -> None:
        model = self.model()
        standardise_convolutions(model)
        plain = AlexNet(model.arch).eval()
        plain.load_state_dict(plain_weights(model))  # strict: the published names and no others
        x_NCHW = torch.rand(2, 3, 224, 224)
        torch.testing.assert_close(plain(x_NCHW), model(x_NCHW), rtol=0, atol=0)
        assert any("parametrizations" in name for name in model.state_dict())  # and goes on training as it was

    def test_a_scale_or_shift_of_the_raw_weights_changes_nothing(self) -> None:
        model = self.model()
        standardise_convolutions(model)
        x_NCHW = torch.rand(1, 3, 224, 224)
        before = model(x_NCHW)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("weight.original"):
                    value.mul_(3.0).add_(0.5)
        torch.testing.assert_close(model(x_NCHW), before, rtol=1e-3, atol=1e-4)  # float32 sums of 2304 terms


class TestCutAndPaste:
    @given(seed=st.integers(0, 2**32), height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 5))
    def test_each_target_is_the_share_of_pixels_that_are_its_own(
        self, seed: int, height: int, width: int, count: int
    ) -> None:
        """Picture n holds the value n everywhere, so its pixels tell where they came from."""
        pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, height, width, 3).clone()
        mixed, shares_NK = cut_and_paste(pixels, torch.arange(count), count, np.random.default_rng(seed))
        for n in range(count):
            own = (mixed[n, :, :, 0] == n).float().mean().item()
            foreign = (mixed[n, :, :, 0] == (n - 1) % count).float().mean().item()
            assert shares_NK[n, n].item() == pytest.approx(own, abs=1e-6)
            assert shares_NK[n, (n - 1) % count].item() == pytest.approx(foreign, abs=1e-6)
        torch.testing.assert_close(shares_NK.sum(1), torch.ones(count))

    def test_small_and_large_boxes_come(self) -> None:
        shares = [
            cut_and_paste(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.arange(2), 2, np.random.default_rng(i))[
                1
            ][0, 1].item()
            for i in range(100)
        ]
        assert min(shares) < 0.05
        assert max(shares) > 0.5


class TestPolicies:
    @pytest.mark.parametrize("name", ["trivial", "rand"])
    def test_the_seed_alone_decides_and_pictures_do_change(self, name: str) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        policy = Policy(name)  # type: ignore[arg-type]
        torch.manual_seed(1)
        first = [policy(pixels, seed) for seed in range(12)]
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)  # dropout's generator was left alone
        second = [policy(pixels, seed) for seed in range(12)]
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(a.shape == pixels.shape and a.dtype == np.uint8 for a in first)
        assert len({a.tobytes() for a in first}) > 6  # a weak draw may leave a picture as it is

    def test_crops_use_it(self, photo_folder: Path) -> None:
        listing = list_folder(photo_folder / "train")
        with_it, without = (
            TrainingCrops(listing, Preprocessing(), dataclasses.replace(recipe("modern"), augment=augment), 0)
            for augment in ("trivial", "none")
        )
        changed = [not np.array_equal(with_it[0, i][0], without[0, i][0]) for i in range(18)]
        assert sum(changed) > 9


def test_pictures_grow_with_the_epochs(photo_folder: Path) -> None:
    grown = dataclasses.replace(recipe("modern", epochs=10), sides=((0.0, 96), (0.5, 128), (0.8, 224)), augment="none")
    crops = TrainingCrops(list_folder(photo_folder / "train"), Preprocessing(), grown, 0)
    sides = [crops[epoch, 0][0].shape[0] for epoch in (0, 4, 5, 7, 8, 9)]
    assert sides == [96, 96, 128, 128, 224, 224]


def test_small_pictures_train_and_the_checkpoint_takes_large_ones(tiny_run: Run) -> None:
    small = dataclasses.replace(tiny_run.recipe, sides=((0.0, 96),), mix="cutmix")
    row = rows_of(dataclasses.replace(tiny_run, recipe=small))[0]
    assert row.val_loss is not None
    assert math.isfinite(row.val_loss)
    assert load_checkpoint(tiny_run.output / "checkpoint.safetensors").contract.preprocessing.height == 224


class TestPrecision:
    def test_fp32_and_bf16_agree_as_far_as_bf16_can(self, tiny_run: Run, tmp_path: Path) -> None:
        losses = {
            precision: rows_of(dataclasses.replace(tiny_run, precision=precision, output=tmp_path / precision))[0]
            for precision in ("fp32", "bf16")
        }
        # 8 bits of mantissa through eight layers; and yet another sum than float32's.
        assert losses["bf16"].train_loss == pytest.approx(losses["fp32"].train_loss, rel=0.03)
        assert losses["bf16"].train_loss != losses["fp32"].train_loss

    def test_a_cpu_trains_in_no_float16(self) -> None:
        with pytest.raises(UsageError, match="--precision fp16: a CPU has no gradient scaling"):
            check_precision("fp16", torch.device("cpu"))
        check_precision("fp16", torch.device("cuda"))

    def test_an_unknown_precision_is_told(
        self, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(photo_folder), "--output", str(tmp_path / "run"), "--precision", "int8"]) == 2
        assert capsys.readouterr().err == "error: --precision int8: takes bf16, fp16 or fp32\n"


def test_compiling_that_fails_is_one_line(photo_folder: Path, tmp_path: Path) -> None:
    """Without a C++ compiler; in a process of its own, for torch's compiler warns of itself when it is imported."""
    flags = ["--epochs", "1", "--batch", "18", "--workers", "0", "--dense-rank", "4", "--skip-preflight", "--compile"]
    fast = ["--set", "augment=none", "--set", "sides=[[0, 96]]"]
    ran = subprocess.run(
        [sys.executable, "-m", "training", str(photo_folder), "--output", str(tmp_path / "run"), *flags, *fast],
        cwd=ROOT,
        env=os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    (told,) = ran.stderr.splitlines()
    assert told.startswith("error: --compile: torch cannot compile the network here (")
    assert "leave --compile out" in told


def test_validation_comes_every_other_epoch_and_after_the_last(tiny_run: Run) -> None:
    run = dataclasses.replace(tiny_run, recipe=dataclasses.replace(tiny_run.recipe, epochs=3), val_every=2)
    assert [row.val_top1_percent is not None for row in rows_of(run)] == [False, True, True]


class TestStart:
    def test_training_begins_with_the_given_weights(self, tiny_run: Run, tmp_path: Path) -> None:
        rows_of(tiny_run)
        first = load_checkpoint(tiny_run.output / "checkpoint.safetensors")
        still = dataclasses.replace(tiny_run.recipe, lr=1e-8, standardise=False, ema_decay=None, clip_norm=1e-6)
        rows_of(dataclasses.replace(tiny_run, recipe=still, start=first, output=tmp_path / "second"))
        second = load_checkpoint(tmp_path / "second" / "checkpoint.safetensors")
        for name, value in first.weights.items():
            torch.testing.assert_close(second.weights[name], value, rtol=0, atol=1e-6)

    def test_a_recipe_that_standardises_would_change_them(
        self, tiny_run: Run, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        with pytest.raises(UsageError, match=r"--start: the recipe modern standardises .* add --recipe finetune"):
            dataclasses.replace(tiny_run, start=tiny_checkpoint)
        full = dataclasses.replace(tiny_checkpoint, arch=architecture("alexnet", num_classes=3, dense_rank=2))
        path = save_checkpoint(
            dataclasses.replace(full, weights=AlexNet(full.arch).state_dict()), tmp_path / "start.safetensors"
        )
        arguments = [str(photo_folder), "--output", str(tmp_path / "run"), "--start", str(path), "--dense-rank", "2"]
        assert main(arguments) == 2
        assert "--set standardise=false" in capsys.readouterr().err

    def test_the_first_logits_are_those_of_the_start(self, tiny_run: Run, tiny_checkpoint: Checkpoint) -> None:
        tuned = dataclasses.replace(
            tiny_run, arch=tiny_checkpoint.arch, recipe=recipe("finetune"), start=tiny_checkpoint
        )
        x_NCHW = torch.rand(2, 3, 224, 224)
        with torch.inference_mode():
            logits_NK = Trainer(tuned, torch.device("cpu"), rank=0).final.eval()(x_NCHW)
            # channels-last sums in another order
            torch.testing.assert_close(logits_NK, tiny_checkpoint.build()(x_NCHW), rtol=1e-4, atol=1e-4)

    def test_weights_of_another_network_or_classes_are_refused(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save_checkpoint(tiny_checkpoint, tmp_path / "start.safetensors")
        arguments = [str(photo_folder), "--output", str(tmp_path / "run"), "--start", str(path)]
        assert main(arguments) == 1
        assert (
            f"error: --start {path}: is of another architecture (alexnet, dense rank None)" in capsys.readouterr().err
        )
        contract = dataclasses.replace(tiny_checkpoint.contract, class_ids=("a", "b", "c"))
        save_checkpoint(dataclasses.replace(tiny_checkpoint, contract=contract), path)
        assert main(arguments) == 1
        assert f"error: --start {path}: knows 3 classes (a, ...), the data has 3 (n01_red, ...)" in (
            capsys.readouterr().err
        )


class TestSettings:
    def test_they_change_one_field_each(self) -> None:
        changed = with_settings(
            recipe("modern"), ["standardise=false", "ema_decay=0.9", "clip_norm=null", "sides=[[0, 96]]", "momentum=0"]
        )
        assert changed == dataclasses.replace(
            recipe("modern"), standardise=False, ema_decay=0.9, clip_norm=None, sides=((0, 96),), momentum=0
        )

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ("speed=9", "takes FIELD=VALUE with a field of "),
            ("lr=9", "takes FIELD=VALUE with a field of "),
            ("flip", "does not fit the field; modern has True"),
            ("flip=yes", "does not fit the field; modern has True"),
            ("momentum=NaN", "does not fit the field; modern has 0.9"),
            ("augment=auto", "does not fit the field; modern has 'trivial'"),
            ("crop_scale=[0.5, 2]", "does not fit the field"),
            ("sides=[[0, 32]]", "does not fit the field"),
            ("label_smoothing=1", "--set label_smoothing 1: is not within 0.0..0.9"),
            ("ema_decay=1", "--set ema_decay 1: is not within"),
            ("ema_decay=-0.1", "--set ema_decay -0.1: is not within"),
            ("clip_norm=-1", "--set clip_norm -1: is not within"),
            ("clip_norm=0", "--set clip_norm 0: is not within"),
            (f"weight_decay=1{'0' * 400}", "does not fit the field; modern has 0.05"),
            ("sides=[[0, 4097]]", "does not fit the field"),
            ("sides=[[0.5, 128], [0.0, 64]]", "--set sides: shares 0.5, 0.0 of the epochs; let them rise from 0"),
            ("sides=[[0, 128], [0, 64]]", "--set sides: shares 0, 0 of the epochs"),
            ("sides=[[0.5, 128]]", "--set sides: shares 0.5 of the epochs"),
            ("sides=[[0, 128], [1, 64]]", "--set sides: shares 0, 1 of the epochs"),
        ],
    )
    def test_what_does_not_fit_is_a_usage_error(self, setting: str, says: str) -> None:
        with pytest.raises(UsageError) as caught:
            with_settings(recipe("modern"), [setting])
        assert says in str(caught.value)

    @given(name=st.sampled_from(sorted(RECIPES)), field=st.sampled_from([f.name for f in dataclasses.fields(Recipe)]))
    def test_any_text_gives_a_recipe_or_one_line(self, name: str, field: str) -> None:
        for text in ("", "1", "-1", "true", "null", "[]", "{}", "1e999", '"x"', "[[1,2,3]]", "[null]", "none"):
            try:
                made = with_settings(recipe(name), [f"{field}={text}"])
            except UsageError as exc:
                assert "\n" not in str(exc)
            else:
                assert math.isfinite(made.lr_at(1.0))
                assert made.side_at(0, 224) > 0
