"""Early stopping: the best epoch is kept, also by a run that was interrupted, and the end depends on nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.models import tiny_runs as tiny
from training.loop.best import best_epoch, stops_early
from training.loop.fit import Interrupted
from training.loop.loss import LabelLoss
from training.loop.record.writer import set_aside
from training.loop.run import EpochMetrics, Run

pytestmark = pytest.mark.usefixtures("no_curves")


def row(epoch: int, top1: float | None, loss: float = 1.0, class_mean: float | None = None) -> EpochMetrics:
    return EpochMetrics(epoch, 0.1, 1.0, None if top1 is None else loss, top1, 1.0, 0.0, class_mean)


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss(tiny_run: Run) -> None:
    rows = [row(1, 50.0), row(2, None), row(3, 60.0, 1.0), row(4, 60.0, 0.9), row(5, 60.0, 0.9), row(6, 10.0, 0.1)]
    best = best_epoch(rows, tiny_run)
    assert best is not None
    assert best.epoch == 4
    assert best_epoch([row(1, None)], tiny_run) is None
    balanced = tiny.changed(tiny_run, recipe={"balance": "loss"})
    best = best_epoch([row(1, 90.0, class_mean=50.0), row(2, 80.0, class_mean=70.0)], balanced)
    assert best is not None
    assert best.epoch == 2


def test_epochs_are_counted_and_the_end_comes_with_a_validation(tiny_run: Run) -> None:
    run = dataclasses.replace(tiny_run, early_stop=3)
    rows = [row(1, 50.0), row(2, 40.0), row(3, None), row(4, None), row(5, 49.0)]
    assert [stops_early(rows[:count], run) for count in range(1, 6)] == [False, False, False, False, True]
    assert not stops_early(rows, tiny_run)
    with pytest.raises(UsageError, match="`early_stop` 0: must be 1 or more"):
        dataclasses.replace(tiny_run, early_stop=0)


@pytest.fixture
def stalling(tiny_run: Run) -> Run:
    """At so small a rate no answer changes; the loss of some epochs is still the lowest."""
    return tiny.changed(tiny_run, recipe={"epochs": 9, "batch": 18, "lr": 1e-8, "ema_decay": None}, early_stop=2)


def test_a_stopped_run_keeps_its_best_epoch_and_ends_there_when_it_is_resumed(stalling: Run, tmp_path: Path) -> None:
    rows = tiny.rows_of(stalling)
    best = best_epoch(rows, stalling)
    assert best is not None
    assert len(rows) == best.epoch + 2 or len(rows) == 9
    assert load_checkpoint(stalling.output / "checkpoint.safetensors").recipe["result"]["epoch"] == best.epoch
    assert tiny.rows_of(dataclasses.replace(stalling, resume=True)) == []
    other = dataclasses.replace(stalling, output=tmp_path / "interrupted")
    with pytest.raises(Interrupted):
        tiny.rows_of(other, on_progress=tiny.interrupt_at(1))
    tiny.rows_of(dataclasses.replace(other, resume=True))
    assert tiny.identical(tiny.weights_of(stalling.output), tiny.weights_of(other.output))


@pytest.fixture
def worsening(tiny_run: Run) -> Run:
    """Trained on wrong labels, so the first epochs are the best."""
    targets = tuple((target + 1) % 3 for target in tiny_run.train.targets)
    recipe = {"epochs": 9, "batch": 18, "lr": 1e-3, "ema_decay": None, "warmup_epochs": 0.0}
    run = tiny.changed(tiny_run, recipe=recipe, train={"targets": targets}, early_stop=2)
    best = best_epoch(tiny.rows_of(run), run)
    assert best is not None
    assert best.epoch < len(tiny.metrics_of(run.output))
    return dataclasses.replace(run, resume=True)


def test_the_best_epoch_of_a_run_at_chance_is_not_lost_when_it_is_resumed(worsening: Run) -> None:
    """Its checkpoint has another name by then."""
    checkpoint = worsening.output / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    aside = set_aside(checkpoint)
    assert tiny.rows_of(worsening) == []
    assert checkpoint.read_bytes() == before
    assert not aside.exists()


def test_a_best_epoch_that_is_gone_is_not_replaced_by_the_last(worsening: Run) -> None:
    (worsening.output / "checkpoint.safetensors").unlink()
    with pytest.raises(InputError, match=r"checkpoint.safetensors is gone, and with it the best epoch so far"):
        tiny.rows_of(worsening)
    assert not (worsening.output / "checkpoint.safetensors").exists()


def test_it_belongs_to_the_configuration_only_where_it_is_used(tiny_run: Run) -> None:
    assert "early_stop" not in tiny_run.config()  # as in the states of earlier runs
    assert dataclasses.replace(tiny_run, early_stop=2).config()["early_stop"] == 2


def test_the_mean_over_the_classes_is_measured(tiny_run: Run) -> None:
    mean = tiny.rows_of(tiny.changed(tiny_run, recipe={"epochs": 1}))[0].val_class_mean_percent
    assert mean is not None
    assert mean == pytest.approx(tiny.metrics_of(tiny_run.output)[0]["val_top1_percent"])  # classes of equal size


def test_a_balanced_loss_is_the_plain_one_of_balanced_classes_and_weighs_rare_ones(tiny_run: Run) -> None:
    balanced = tiny.changed(tiny_run, recipe={"balance": "loss"})
    logits_NK, targets_N = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    assert torch.allclose(LabelLoss(balanced)(logits_NK, targets_N), LabelLoss(tiny_run)(logits_NK, targets_N))
    rare = tiny.changed(balanced, train={"targets": (0,) * 12 + (1,) * 3 + (2,) * 3})
    rare = tiny.changed(rare, recipe={"label_smoothing": 0.0})
    plain = tiny.changed(tiny_run, recipe={"label_smoothing": 0.0})
    for target, weight in ((0, 0.5), (1, 2.0)):  # 18 images, 3 classes: 18 / (3 * 12) and 18 / (3 * 3)
        one = torch.tensor([target])
        assert torch.allclose(LabelLoss(rare)(logits_NK[:1], one), weight * LabelLoss(plain)(logits_NK[:1], one))


@pytest.mark.parametrize("changes", [{"repeats": 3}, {"balance": "sampler", "repeats": 2}, {"balance": "loss"}])
def test_stopping_and_resuming_changes_no_bit(tiny_run: Run, tmp_path: Path, changes: dict[str, object]) -> None:
    run = tiny.changed(tiny_run, recipe=changes)
    tiny.rows_of(run)
    other = dataclasses.replace(run, output=tmp_path / "stopped")
    with pytest.raises(Interrupted):
        tiny.rows_of(other, on_progress=tiny.interrupt_at(2))
    tiny.rows_of(dataclasses.replace(other, resume=True))
    assert tiny.identical(tiny.weights_of(run.output), tiny.weights_of(other.output))
