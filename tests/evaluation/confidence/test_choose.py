"""The ways of calibrating: which one wins where its model is true, and what each keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.confidence.choose import choose_method
from alexnet_deploy.evaluation.confidence.methods import METHODS, fit_temperature
from alexnet_deploy.probabilities import loss_nats, probabilities, softmax

NAMES = tuple("abcde")
BARE = ModelContract("any", NAMES, NAMES)
KEEPERS = [name for name in METHODS if name not in ("temperature with bias", "vector scaling")]


def drawn(p_NK: NDArray[np.float64], seed: int = 0) -> NDArray[np.int64]:
    """A class of each row, with its chance."""
    rng = np.random.default_rng(seed)
    return (rng.random((len(p_NK), 1)) > p_NK.cumsum(axis=1)[:, :-1]).sum(axis=1)


def logits_of(images: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (images, len(NAMES))).astype(np.float32)


def test_where_one_temperature_is_the_truth_it_is_chosen() -> None:
    logits_NK = logits_of(800)
    choice = choose_method(logits_NK, drawn(softmax(logits_NK, 2.0)), BARE)
    assert choice.chosen == "temperature"
    assert choice.contract.temperature == pytest.approx(2.0, rel=0.2)  # four standard deviations at 800 images
    assert choice.contract.calibration is None


def test_where_no_temperature_is_the_truth_another_fits_images_that_nobody_fitted_on() -> None:
    """The first class is right in nine of ten images, however sure the logits are: no temperature can say so."""

    def truth(logits_NK: NDArray[np.float32]) -> NDArray[np.float64]:
        p_NK = np.full(logits_NK.shape, 0.1 / (len(NAMES) - 1))
        p_NK[np.arange(len(p_NK)), logits_NK.argmax(axis=1)] = 0.9
        return p_NK

    logits_NK, others_NK = logits_of(1000), logits_of(1000, seed=1)
    choice = choose_method(logits_NK, drawn(truth(logits_NK)), BARE)
    assert choice.contract.calibration is not None
    top_N = probabilities(others_NK, choice.contract).max(axis=1)
    assert np.abs(top_N - 0.9).mean() < 0.03  # 1,000 answers determine a step of 100 images to 3 points
    target_N, at = drawn(truth(others_NK), seed=2), fit_temperature(logits_NK, drawn(truth(logits_NK)))
    by_temperature = loss_nats(others_NK, target_N, replace(BARE, temperature=at)).mean()
    assert loss_nats(others_NK, target_N, choice.contract).mean() < by_temperature


def test_a_bias_is_seen_but_never_stored() -> None:
    """Two classes are likelier than their logits say: only what changes answers can mend that."""
    logits_NK = logits_of(800)
    choice = choose_method(logits_NK, drawn(softmax(logits_NK + np.array([4, 4, 0, 0, 0]))), BARE)
    best = min(choice.rows, key=lambda row: row.nll_nats)
    assert best.method in ("temperature with bias", "vector scaling")
    assert not best.keeps_ranking
    assert choice.chosen in KEEPERS


def test_a_contract_that_was_calibrated_is_fitted_anew() -> None:
    logits_NK = logits_of(300)
    target_N = drawn(softmax(logits_NK, 2.0))
    before = choose_method(logits_NK, target_N, BARE).contract
    assert choose_method(logits_NK, target_N, replace(before, temperature=9.0)).contract == before


@pytest.mark.parametrize("name", KEEPERS)
@pytest.mark.parametrize("images", [20, 400])
def test_each_that_is_stored_keeps_the_ranking(name: str, images: int) -> None:
    logits_NK = logits_of(images)
    fitted = METHODS[name](logits_NK, drawn(softmax(logits_NK, 0.7)), BARE)
    assert fitted.contract is not None
    others_NK = logits_of(200, seed=3)
    ranked_NK = np.take_along_axis(probabilities(others_NK, fitted.contract), np.argsort(-others_NK, axis=1), axis=1)
    assert (np.diff(ranked_NK, axis=1) <= 1e-12).all()
    assert ModelContract.from_json(fitted.contract.to_json(), source="x") == fitted.contract


def test_the_linear_ones_find_what_made_the_classes() -> None:
    logits_NK = logits_of(4000)
    target_N = drawn(softmax(logits_NK * np.array([1.0, 0.5, 1, 1, 1]) + np.array([1.0, 0, 0, 0, -1])))
    losses = {name: METHODS[name](logits_NK, target_N, BARE).loss(logits_NK, target_N).mean() for name in METHODS}
    assert min(losses, key=lambda name: losses[name]) == "vector scaling"
    assert losses["temperature with bias"] < losses["temperature"] < losses["none"]
