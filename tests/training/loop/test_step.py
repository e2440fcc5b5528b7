"""One step: its precision, the weights it begins with, and the standardised convolutions it trains."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint
from tests.helpers.models.tiny_runs import identical, rows_of, run_of
from training.loop.run import Run
from training.loop.standardise import plain_weights, standardise_convolutions
from training.loop.step import Trainer, check_precision
from training.recipes.named import get_recipe
from training.recipes.recipe import RecipeName

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture
def two_steps(photo_folder: Path, tmp_path: Path) -> Run:
    return run_of(photo_folder, tmp_path / "run", epochs=1, batch=9, dropout=0.0)


def test_fp32_and_bf16_agree_within_bf16s_rounding(two_steps: Run, tmp_path: Path) -> None:
    fp32, bf16 = (
        rows_of(dataclasses.replace(two_steps, precision=precision, output=tmp_path / precision))[0].train_loss
        for precision in ("fp32", "bf16")
    )
    # 8 bits of mantissa through eight layers; and yet another sum than float32's.
    assert bf16 == pytest.approx(fp32, rel=0.03)
    assert bf16 != fp32


def test_a_cpu_trains_in_no_float16() -> None:
    with pytest.raises(UsageError, match="`precision` fp16: a CPU has no gradient scaling"):
        check_precision("fp16", torch.device("cpu"))
    check_precision("fp16", torch.device("cuda"))


def test_training_begins_with_the_given_weights(two_steps: Run, tmp_path: Path) -> None:
    rows_of(two_steps)
    first = load_checkpoint(two_steps.output / "checkpoint.safetensors")
    still = dataclasses.replace(two_steps.recipe, lr=1e-8, standardise=False, ema_decay=None, clip_norm=1e-6)
    rows_of(dataclasses.replace(two_steps, recipe=still, start=first, output=tmp_path / "second"))
    second = load_checkpoint(tmp_path / "second" / "checkpoint.safetensors")
    for name, value in first.weights.items():
        torch.testing.assert_close(second.weights[name], value, rtol=0, atol=1e-6)


def test_a_recipe_that_standardises_would_change_given_weights(two_steps: Run, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"`start`: the recipe modern standardises .* `overrides` standardise=false"):
        dataclasses.replace(two_steps, start=tiny_checkpoint)


def test_the_first_logits_are_those_of_the_start(two_steps: Run, tiny_checkpoint: Checkpoint) -> None:
    tuned = dataclasses.replace(
        two_steps, arch=tiny_checkpoint.arch, recipe=get_recipe("finetune"), start=tiny_checkpoint
    )
    x_NCHW = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        logits_NK = Trainer(tuned, torch.device("cpu"), rank=0).final.eval()(x_NCHW)
        # channels-last sums in another order
        torch.testing.assert_close(logits_NK, tiny_checkpoint.build()(x_NCHW), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", ["torchvision", "finetune"])
def test_a_first_step_that_overflows_changes_nothing(two_steps: Run, recipe: RecipeName) -> None:
    """Float16's loss scale begins so high that it often does; the scale skips that step."""
    run = dataclasses.replace(two_steps, recipe=get_recipe(recipe))
    trainer = Trainer(run, torch.device("cpu"), rank=0)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.use_deterministic_algorithms(True)  # which fills uninitialised memory with NaN
    try:
        trainer.step(0, 0.1, torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8), torch.arange(6) % 3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert identical(trainer.model.state_dict(), before)
    moments = [value for slot in trainer.optimizer.state_dict()["state"].values() for value in slot.values()]
    assert not any(bool(torch.as_tensor(value).any()) for value in moments)


@pytest.fixture
def standardised() -> AlexNet:
    torch.manual_seed(0)
    model = AlexNet(get_architecture("alexnet-2012", num_classes=3, hidden=16))
    initialise(model, "kaiming")
    standardise_convolutions(model)
    return model.eval()


def test_each_output_channel_has_mean_0_and_kaimings_deviation(standardised: AlexNet) -> None:
    for layer in (m for m in standardised.modules() if isinstance(m, nn.Conv2d)):
        weights = layer.weight.flatten(1)
        fan_in = weights.shape[1]  # of its group
        torch.testing.assert_close(weights.mean(1), torch.zeros(len(weights)), rtol=0, atol=1e-6)
        deviation = torch.full((len(weights),), math.sqrt(2 / fan_in))
        torch.testing.assert_close(weights.std(1, unbiased=False), deviation, rtol=1e-4, atol=0)


def test_an_ordinary_network_with_the_same_answers_ships(standardised: AlexNet) -> None:
    plain = AlexNet(standardised.arch).eval()
    plain.load_state_dict(plain_weights(standardised))  # strict: the published names and no others
    x_NCHW = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(plain(x_NCHW), standardised(x_NCHW), rtol=0, atol=0)
    assert any("parametrizations" in name for name in standardised.state_dict())  # and goes on training as it was


def test_a_scale_or_shift_of_the_raw_weights_changes_nothing(standardised: AlexNet) -> None:
    x_NCHW = torch.rand(1, 3, 224, 224)
    before = standardised(x_NCHW)
    with torch.no_grad():
        for name, value in standardised.named_parameters():
            if name.endswith("weight.original"):
                value.mul_(3.0).add_(0.5)
    torch.testing.assert_close(standardised(x_NCHW), before, rtol=1e-3, atol=1e-4)  # float32 sums of 2304 terms
