"""Temperatures: the fit against theory, and the logits that no temperature fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.accuracy import confidence
from alexnet_deploy.evaluation.temperature import fit_temperature, quality
from tests.helpers.logits import drawn_logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_fit_finds_the_temperature_that_made_the_classes(temperature: float) -> None:
    found = fit_temperature(*drawn_logits(20_000, temperature), source="drawn")
    assert found == pytest.approx(temperature, rel=0.03)  # four standard deviations at 20,000 images


@given(factor=st.floats(0.2, 5.0), seed=st.integers(0, 50))
@settings(max_examples=15)
def test_logits_scaled_scale_the_temperature(factor: float, seed: int) -> None:
    logits_NK, target_N = drawn_logits(200, 1.0, seed)
    once = fit_temperature(logits_NK, target_N, source="drawn")
    scaled = fit_temperature(logits_NK * np.float32(factor), target_N, source="drawn")
    assert scaled == pytest.approx(factor * once, rel=1e-4)  # float32 logits, and a minimum is flat


def test_at_the_fit_the_true_class_has_the_logit_that_the_model_expects() -> None:
    """The derivative of the likelihood by 1 / T is 0 exactly there, whatever found it."""
    logits_NK, target_N = drawn_logits(500, 1.7)
    powers_NK = np.exp(logits_NK.astype(np.float64) / fit_temperature(logits_NK, target_N, source="drawn"))
    expected = ((powers_NK / powers_NK.sum(axis=1, keepdims=True)) * logits_NK).sum(axis=1).mean()
    assert np.take_along_axis(logits_NK, target_N[:, None], axis=1).mean() == pytest.approx(expected, abs=1e-4)


GOOD, RIGHT = drawn_logits(200, 1.0)


@pytest.mark.parametrize(
    ("logits_NK", "target_N", "words"),
    [
        (GOOD[:99], RIGHT[:99], "99 usable images are too few"),
        (GOOD, np.zeros_like(RIGHT), "one class"),
        (np.where(np.arange(200)[:, None] == 7, np.float32("nan"), GOOD), RIGHT, "not finite"),
        (np.ones_like(GOOD), RIGHT, "same answer"),
        (np.repeat(GOOD[:1], 200, axis=0), RIGHT, "same answer"),
        (GOOD, GOOD.argmax(axis=1), "all 200 answers are right"),
        (GOOD, GOOD.argmin(axis=1), "no temperature within"),
    ],
)
def test_what_tells_no_temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fit_temperature(logits_NK, target_N, source="photos")
    assert str(caught.value).startswith("photos: ")


def test_quality_is_what_evaluate_says() -> None:
    found, said = quality(GOOD, RIGHT, 2.0), confidence(GOOD, RIGHT, 2.0)
    assert (found.nll_nats, found.ece_percent) == (said.nll_nats, said.ece_percent)
    by_bin = sum(r.images * (r.accuracy_percent or 0) for r in found.bins) / 200
    assert by_bin == pytest.approx(100 * (GOOD.argmax(axis=1) == RIGHT).mean())
