"""A run that cannot succeed stops and reports why; one that only started badly goes on."""

from __future__ import annotations

import dataclasses
import math

import pytest

from alexnet_deploy.errors import ProofError
from alexnet_deploy.model.architecture import get_architecture
from tests.helpers.models.tiny_runs import SMALL_PICTURES, rows_of
from training.loop.divergence import CHANCE_EPOCHS, SETTLED_STEPS, WINDOW, DivergenceCheck
from training.loop.run import EpochMetrics, Run
from training.recipes.named import get_recipe
from training.run_files import STATE_FILE

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture
def run(tiny_run: Run) -> Run:
    """Ten classes, so a blind guess has a loss of 2.303; two epochs of warm-up."""
    return dataclasses.replace(tiny_run, arch=get_architecture("alexnet", num_classes=10))


def row_of(epoch: int, train_loss: float, val_top1_percent: float | None) -> EpochMetrics:
    return EpochMetrics(epoch, 0.01, train_loss, None, val_top1_percent, 1.0, 0.0)


def stopped_after(run: Run, steps_per_epoch: int, rows: list[EpochMetrics]) -> int | None:
    """After how many of the rows the run is stopped."""
    for count in range(1, len(rows) + 1):
        try:
            DivergenceCheck(run, steps_per_epoch).check_epochs(rows[:count])  # a new one each time: as after a resume
        except ProofError:
            return count
    return None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(run: Run, loss: float) -> None:
    plain = dataclasses.replace(run, recipe=get_recipe("torchvision"))
    for diverged, advice in ((plain, "clip the gradient: `overrides` clip_norm=1"), (run, "another `output`")):
        with pytest.raises(ProofError, match=rf"run: the loss became {loss} in epoch 1; lower `lr` .*{advice}$"):
            DivergenceCheck(diverged, 100).check_losses(7, [2.3, loss])


def test_an_explosion_in_the_first_epoch(run: Run) -> None:
    check = DivergenceCheck(dataclasses.replace(run, recipe=get_recipe("torchvision")), 10_000)
    check.check_losses(SETTLED_STEPS + WINDOW, [9.2] * WINDOW)  # 4 ln 10 = 9.21
    with pytest.raises(ProofError, match=r"run: the loss exploded to 9\.3 in epoch 1 \(a blind guess has 2\.3\)"):
        check.check_losses(SETTLED_STEPS + WINDOW, [9.3] * WINDOW)


def test_a_jump_after_the_warm_up_is_allowed(run: Run) -> None:
    """As 80 images do with ``modern``, one step per epoch: 10.9 in the second step after the warm-up."""
    check = DivergenceCheck(run, 1)
    for step in range(1, 2 + SETTLED_STEPS + WINDOW):
        check.check_losses(step, [10.9] * min(step, WINDOW))
    with pytest.raises(ProofError, match=rf"exploded to 10\.9 in epoch {2 + SETTLED_STEPS + WINDOW} "):
        check.check_losses(2 + SETTLED_STEPS + WINDOW, [10.9] * WINDOW)


def test_a_few_wild_steps_are_allowed(run: Run) -> None:
    DivergenceCheck(run, 100).check_losses(1000, [100.0] * 3 + [2.0] * (WINDOW - 3))
    DivergenceCheck(run, 100).check_losses(1000, [100.0] * (WINDOW - 1))  # fewer than a window: just resumed


def test_chance_must_last(run: Run) -> None:
    blind = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 21)]
    assert stopped_after(run, 1000, blind) == CHANCE_EPOCHS
    for life in (row_of(3, 2.25, 10.0), row_of(3, 2.25, None), row_of(3, 2.302, 15.1)):
        assert stopped_after(run, 1000, [*blind[:2], life, *blind[3:]]) == 3 + CHANCE_EPOCHS
    assert stopped_after(run, 1000, [row_of(epoch, 2.302, 15.1) for epoch in range(1, 21)]) is None


def test_chance_is_counted_in_epochs_however_many_are_validated(run: Run) -> None:
    rows = [row_of(epoch, 2.302, None if epoch % 4 else 10.0) for epoch in range(1, 21)]
    assert stopped_after(run, 1000, rows) == 8


def test_few_steps_after_the_warm_up_prove_no_chance(run: Run) -> None:
    rows = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 31)]
    assert stopped_after(run, 10, rows) == 2 + SETTLED_STEPS / 10
    assert stopped_after(run, 1, rows) is None


def test_the_recipe_that_a_run_has_is_not_suggested(run: Run) -> None:
    rows = [row_of(epoch, 2.302, 10.0) for epoch in range(1, 6)]
    with pytest.raises(ProofError, match=r"still at chance \(10\.0 % of 10 classes\) after epoch 5") as caught:
        DivergenceCheck(run, 1000).check_epochs(rows)
    assert "modern" not in str(caught.value)
    with pytest.raises(ProofError, match="`recipe` modern, or check the labels"):
        DivergenceCheck(dataclasses.replace(run, recipe=get_recipe("torchvision")), 1000).check_epochs(rows)


def test_a_run_that_learns_nothing_is_stopped_also_when_it_is_resumed(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.divergence.SETTLED_STEPS", 4)
    # So small a rate that nothing changes, and answers that are the same for all.
    dead = get_recipe("torchvision", epochs=20, batch=18, lr=1e-8, init="paper", sides=SMALL_PICTURES)
    run = dataclasses.replace(tiny_run, recipe=dead)
    for _ in range(2):
        with pytest.raises(ProofError, match=rf"still at chance \(33\.3 % of 3 classes\) after epoch {CHANCE_EPOCHS}"):
            rows_of(run)
        run = dataclasses.replace(run, resume=True)
    assert (tiny_run.output / STATE_FILE).is_file()
