"""Training on a GPU: the loss of a CPU, and a resumed run that changes no bit where torch promises that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from tests.helpers.models import tiny_runs as tiny
from training.loop.device import pick_device
from training.loop.fit import Interrupted
from training.loop.run import Run

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_curves")]


@pytest.fixture(autouse=True)
def on_cuda() -> None:
    if pick_device().type != "cuda":
        pytest.skip("no GPU that torch can use")


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only algorithms that add in the same order each time; cuBLAS reads the variable when it is first used."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("precision", "within"),
    # Sums in another order, TF32's 10 bits of mantissa, then 8 and 11 bits: over 6 steps each rounds the loss, which
    # begins at ln 3, by some 2^-9, and what the weights learn from it is as far off again.
    [("fp32", 0.01), ("bf16", 0.03), ("fp16", 0.03)],
)
def test_the_loss_follows_that_of_a_cpu(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, precision: str, within: float
) -> None:
    run = tiny.changed(tiny_run, recipe={"epochs": 2, "batch": 6, "lr": 1e-4}, precision=precision)
    run = dataclasses.replace(run, arch=dataclasses.replace(run.arch, dropout=0.0))  # drawn by another generator
    there = [row.train_loss for row in tiny.rows_of(run)]
    monkeypatch.setattr("training.loop.fit.pick_device", lambda rank: torch.device("cpu"))
    here_run = dataclasses.replace(run, output=run.output.with_name("cpu"), precision="fp32")
    here = [row.train_loss for row in tiny.rows_of(here_run)]
    assert there == pytest.approx(here, rel=within)


@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_changes_no_bit(tiny_run: Run) -> None:
    undisturbed = dataclasses.replace(tiny_run, output=tiny_run.output.with_name("undisturbed"))
    tiny.rows_of(undisturbed)
    with pytest.raises(Interrupted):
        tiny.rows_of(tiny_run, on_progress=tiny.interrupt_at(4))
    tiny.rows_of(dataclasses.replace(tiny_run, resume=True))
    assert tiny.identical(tiny.weights_of(tiny_run.output), tiny.weights_of(undisturbed.output))
