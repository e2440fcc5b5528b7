"""The account of the epochs that made a checkpoint, and every place that gives it."""

from __future__ import annotations

from typing import Any

import pytest

from training.epochs import Epochs, counted, epochs_of

TWENTY = {"recipe": {"name": "transfer", "epochs": 20}}
SCALED = {"test_scale": {"result_before": {"epoch": 4}, "recipe": {"epochs": 2}}}


@pytest.mark.parametrize(
    ("recipe", "trained", "text"),
    [
        ({}, None, ""),
        (TWENTY, None, "20 epochs"),
        (TWENTY | {"result": {"epoch": 20}}, 20, "epoch 20"),
        (TWENTY | {"result": {"epoch": 20}}, None, "epoch 20"),
        (TWENTY | {"result": {"epoch": 8}}, 8, "epoch 8 (20 were planned)"),  # stopped, and not resumed
        (TWENTY | {"result": {"epoch": 4}, "early_stop": 3}, 7, "epoch 4, the best of 7 (20 were planned)"),
        (TWENTY | {"result": {"epoch": 4}, "early_stop": 3}, None, "epoch 4, the best by validation (20 were planned)"),
        (TWENTY | {"result": {"epoch": 20}, "early_stop": 3}, 20, "epoch 20, the best of 20"),
        # Earlier checkpoints counted on from the planned epochs, here to 22.
        (
            TWENTY | SCALED | {"result": {"epoch": 22}, "early_stop": 3},
            7,
            "epoch 4, the best of 7 (20 were planned), then 2 epochs at test scale",
        ),
        (TWENTY | {"recipe": {"epochs": 1, "view": "inference"}, "result": {"epoch": 1}}, 1, "epoch 1 at test scale"),
        ({"recipe": 3, "result": "x", "test_scale": [], "early_stop": None}, 0, ""),
    ],
)
def test_its_words(recipe: dict[str, Any], trained: int | None, text: str) -> None:
    assert epochs_of(recipe, trained).describe() == text


def test_a_number_and_its_noun_agree() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 1000)] == ["0 epochs", "1 epoch", "1,000 epochs"]
    assert Epochs(1, 1, 1).describe() == "epoch 1"
