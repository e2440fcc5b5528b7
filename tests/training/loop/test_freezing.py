"""Frozen layers stay bit by bit, rates belong to their layers, and gradual unfreezing resumes exactly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import AlexNet, initialise
from alexnet_deploy.model.checkpoint import Checkpoint
from tests.helpers.models.tiny_runs import SMALL_PICTURES, identical, interrupt_at, rows_of, weights_of
from tests.helpers.photos import CLASSES
from training.loop.fit import Interrupted, fit
from training.loop.freezing import parameter_groups
from training.loop.run import EpochMetrics, Run
from training.loop.standardise import have_mean_0, plain_weights, standardise_convolutions
from training.loop.state import RunState, load_state, save_state
from training.loop.step import Trainer
from training.recipes.named import get_recipe

CONVOLUTIONS = tuple(f"features.{number}." for number in (0, 3, 6, 8, 10))
HIDDEN = ("classifier.1.", "classifier.4.")


def start_of(run: Run) -> Checkpoint:
    torch.manual_seed(3)
    model = AlexNet(run.arch)
    initialise(model, "kaiming")
    contract = ModelContract("alexnet", tuple(CLASSES), tuple(CLASSES))
    return Checkpoint(run.arch, contract, {key: value.detach() for key, value in model.state_dict().items()})


def tuned(run: Run, **changes: Any) -> Run:
    """``run`` with the recipe ``transfer`` from some weights, and averaged, which must not move what is frozen."""
    changes = {"epochs": 2, "batch": 6, "sides": SMALL_PICTURES, "ema_decay": 0.5, "lr": 1e-3} | changes
    return dataclasses.replace(run, recipe=get_recipe("transfer", **changes), start=start_of(run))


def moved(run: Run) -> set[str]:
    """The layers, up to the last dot, whose weights are no longer those of the start."""
    assert run.start is not None
    after = weights_of(run.output)
    return {
        key.rpartition(".")[0] + "." for key, value in run.start.weights.items() if not torch.equal(after[key], value)
    }


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    ("changes", "learns"),
    [
        ({}, {*CONVOLUTIONS, *HIDDEN, "classifier.6."}),
        ({"freeze": "features"}, {*HIDDEN, "classifier.6."}),
        ({"freeze": "all-but-head", "optimizer": "sgd", "lr": 0.1}, {"classifier.6."}),
        ({"conv_lr": 0.0, "optimizer": "sgd", "lr": 0.1}, {*HIDDEN, "classifier.6."}),
        ({"freeze": "features", "unfreeze_every": 1}, {CONVOLUTIONS[-1], *HIDDEN, "classifier.6."}),
    ],
)
def test_frozen_layers_keep_every_bit(tiny_run: Run, changes: dict[str, Any], learns: set[str]) -> None:
    run = tuned(tiny_run, **changes)
    fit(run)
    assert moved(run) == learns


def test_the_last_layer_has_a_rate_of_its_own(tiny_run: Run) -> None:
    run = tuned(tiny_run, lr=1e-4, head_lr=4e-4, conv_lr=5e-5)
    model = AlexNet(run.arch)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, float] = {}
    for group in parameter_groups(model, run.recipe):
        rates |= {names[id(parameter)]: group["rate"] for parameter in group["params"]}
        assert group.get("weight_decay") == (0.0 if group["params"][0].ndim == 1 else None)
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        expected = 0.5 if name.startswith("features.") else 4.0 if name.startswith("classifier.6.") else 1.0
        assert rate == pytest.approx(expected), name


def test_a_step_moves_each_layer_by_its_rate(tiny_run: Run) -> None:
    """AdamW's first step moves a weight by its rate, whatever the gradient."""
    run = tuned(tiny_run, lr=1e-4, head_lr=1e-3, weight_decay=0.0)
    trainer = Trainer(run, torch.device("cpu"), rank=0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step(0, 5e-5, torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8), torch.arange(6) % 3)  # half the peak

    def step_of(layer: str) -> Tensor:
        key = f"{layer}.weight"
        return (trainer.model.state_dict()[key] - before[key]).abs().median()

    # A gradient near AdamW's epsilon moves its weight less, so the median.
    assert step_of("classifier.6").item() == pytest.approx(5e-4, rel=0.01)
    assert step_of("classifier.4").item() == pytest.approx(5e-5, rel=0.05)


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_unfreezing_resumes_bit_by_bit(tiny_run: Run, optimizer: str) -> None:
    """Epochs of three steps: stopped while frozen, after the first and after the second layer learns."""
    run = tuned(tiny_run, freeze="all-but-head", unfreeze_every=1, epochs=3, optimizer=optimizer)
    whole = dataclasses.replace(run, output=run.output / "whole")
    rows_of(whole)
    for step, resume in ((2, False), (4, True), (7, True)):
        with pytest.raises(Interrupted):
            fit(dataclasses.replace(run, resume=resume), on_progress=interrupt_at(step))
    fit(dataclasses.replace(run, resume=True))
    assert identical(weights_of(run.output), weights_of(whole.output))


def test_a_layer_whose_first_step_the_loss_scale_skipped_is_resumed(tiny_run: Run, tmp_path: Path) -> None:
    """Float16's scale as on a GPU; the gradients of the first step of the second epoch overflow."""
    run = tuned(tiny_run, freeze="all-but-head", unfreeze_every=1, optimizer="sgd", ema_decay=None)
    trainer, other = (Trainer(run, torch.device("cpu"), rank=0) for _ in range(2))
    batch = torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8), torch.arange(6) % 3
    for epoch, scale in ((0, 1.0), (1, math.inf)):
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.begin_epoch(epoch)
        trainer.step(3 * epoch, 1e-3, *batch)
    trainer.scaler = other.scaler = torch.amp.GradScaler("cpu")
    state = RunState(4, run.config(), [EpochMetrics(1, 1e-3, 1.0, 1.0, 50.0, 1.0, 0.0)])
    save_state(tmp_path / "state.safetensors", state, trainer)
    assert load_state(tmp_path / "state.safetensors", run.config(), other).step == 4
    assert len(other.optimizer.state_dict()["state"]) == 2  # weight and bias of the last layer


class TestStandardised:
    def filters_of_mean_0(self, run: Run) -> Run:
        model = AlexNet(run.arch)
        model.load_state_dict(start_of(run).weights)
        standardise_convolutions(model)
        weights = {key: value.half() for key, value in plain_weights(model).items()}
        return dataclasses.replace(run, start=dataclasses.replace(start_of(run), weights=weights))

    def test_folded_weights_go_on_as_the_same_function(self, tiny_run: Run) -> None:
        run = self.filters_of_mean_0(tiny_run)
        assert run.recipe.standardise
        assert run.start is not None
        x_NCHW = torch.rand(2, 3, 224, 224)
        with torch.inference_mode():
            logits_NK = Trainer(run, torch.device("cpu"), rank=0).model.eval()(x_NCHW)
            # float16 leaves the filters a mean, which standardising takes off
            torch.testing.assert_close(logits_NK, run.start.build()(x_NCHW), rtol=2e-3, atol=2e-3)

    def test_others_are_refused_with_what_to_do(self, tiny_run: Run) -> None:
        start = start_of(tiny_run)
        assert not have_mean_0(start.weights)
        with pytest.raises(
            UsageError, match=r"as their filters have a mean; add `recipe` transfer or `overrides` stand"
        ):
            dataclasses.replace(tiny_run, start=start)

    def test_frozen_filters_are_not_standardised(self, tiny_run: Run) -> None:
        recipe = dataclasses.replace(tiny_run.recipe, freeze="features")
        with pytest.raises(
            UsageError, match=r"`freeze` features: the recipe modern standardises convolutions; add `rec"
        ):
            dataclasses.replace(self.filters_of_mean_0(tiny_run), recipe=recipe)
