"""Measures of logits by hand, and against slower or independent ways to the same number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.accuracy import (
    accuracy,
    accuracy_delta,
    calibration_error,
    confidence,
    reliability_bins,
)
from alexnet_deploy.inference.rows import top_answers
from alexnet_deploy.probabilities import predicted_classes
from tests.helpers.answers import given_answers

CLASSES = 7


def contract(temperature: float = 1.0) -> ModelContract:
    names = tuple(map(str, range(CLASSES)))
    return ModelContract("any", names, names, temperature=temperature)


def saying(*classes: int) -> NDArray[np.float32]:
    """Logits whose first answers are ``classes``."""
    return np.eye(CLASSES, dtype=np.float32)[list(classes)]


LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.just(CLASSES)),
    # Few values, so that ties come up; one that overflows as exp.
    elements=st.sampled_from([-800.0, -1.0, 0.0, 0.5, 3.0, 800.0]),
)


def test_top1_and_top5_by_hand() -> None:
    order = [[6, 5, 4, 3, 2, 1, 0]]  # class 0 is first, class 6 last
    found = accuracy(given_answers([0, 4, 5, 6], order * 4), 0, contract())
    assert (found.images, found.top1_percent, found.top5_percent) == (4, 25.0, 50.0)
    assert found.top1_interval.low < 25 < found.top1_interval.high
    assert found.top5_interval.low < 50 < found.top5_interval.high


def test_few_classes_are_all_among_the_first_five() -> None:
    names = ("a", "b", "c")
    found = accuracy(given_answers([2], [[3, 2, 1]]), 0, ModelContract("three", names, names))
    assert (found.top1_percent, found.top5_percent) == (0, 100)
    broken = accuracy(given_answers([2, 2], [[3, 2, 1], [3, math.nan, 1]]), 0, ModelContract("three", names, names))
    assert (broken.top1_percent, broken.top5_percent, broken.not_finite) == (0, 50, 1)  # what is no answer is not


@given(LOGITS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_same_answers_as_infer_gives(logits_NK: NDArray[np.float32], random: Any) -> None:
    targets = [random.randrange(CLASSES) for _ in logits_NK]
    shown = [[answer.index for answer in row] for row in top_answers(logits_NK, contract(), 5)]
    found = accuracy(given_answers(targets, logits_NK), 0, contract())
    assert found.top1_percent == pytest.approx(
        100 * np.mean([row[0] == k for row, k in zip(shown, targets, strict=True)])
    )
    assert found.top5_percent == pytest.approx(100 * np.mean([k in row for row, k in zip(shown, targets, strict=True)]))
    assert predicted_classes(logits_NK).tolist() == [row[0] for row in shown]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_not_finite_is_wrong(bad: float) -> None:
    logits = saying(0, 0)
    logits[1, 3] = bad
    found = accuracy(given_answers([0, 0], logits), 0, contract())
    assert (found.top1_percent, found.top5_percent, found.not_finite) == (50, 50, 1)
    assert found.confidence is None
    assert found.uncalibrated is None
    assert accuracy_delta(given_answers([0, 0], saying(0, 0), logits), 0, 1).lost == 1


def test_likelihood_by_hand_at_both_temperatures() -> None:
    """Two classes at logits 0 and ln 3 have chances 1/4 and 3/4; at temperature 1/2, 1/10 and 9/10."""
    names = ("a", "b")
    both = given_answers([1, 0], [[0, math.log(3)]] * 2)
    found = accuracy(both, 0, ModelContract("two", names, names, temperature=0.5))
    assert found.uncalibrated is not None
    assert found.confidence is not None
    assert found.uncalibrated.nll_nats == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert found.confidence.nll_nats == pytest.approx(-(math.log(9 / 10) + math.log(1 / 10)) / 2)
    # One of two is right, so the confidence is too high by 1/4, and by 4/10.
    assert found.uncalibrated.ece_percent == pytest.approx(25)
    assert found.confidence.ece_percent == pytest.approx(40)
    assert (found.uncalibrated.temperature, found.confidence.temperature) == (1.0, 0.5)


def test_more_images_than_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits_NK = rng.normal(size=(25, CLASSES)).astype(np.float32)
    target_N = rng.integers(0, CLASSES, 25)
    whole = confidence(logits_NK, target_N, contract(1.5))
    monkeypatch.setattr("alexnet_deploy.evaluation.accuracy._ROWS", 10)
    assert confidence(logits_NK, target_N, contract(1.5)) == whole


def test_delta_by_hand() -> None:
    targets = [0, 0, 0, 1, 1, 2]
    first = saying(0, 0, 5, 1, 1, 3)
    second = saying(0, 5, 0, 1, 5, 4)
    found = accuracy_delta(given_answers(targets, first, second), 0, 1)
    assert (found.images, found.lost, found.won) == (6, 2, 1)
    assert found.agreement_percent == pytest.approx(100 * 2 / 6)  # the last is wrong in both, but otherwise
    assert found.points == pytest.approx(-100 / 6)
    assert found.points_interval.low < found.points < found.points_interval.high
    assert found.mcnemar_p == 1  # 2 to 1 is as even as 3 flips can be
    assert [(c.target, c.images, c.points) for c in found.classes] == [
        (1, 2, -50),
        (0, 3, pytest.approx(0)),
        (2, 1, 0),
    ]


@given(LOGITS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_what_holds_for_any_pair(first_NK: NDArray[np.float32], random: Any) -> None:
    second_NK = np.array([[random.choice([0.0, 1.0, 2.0]) for _ in row] for row in first_NK], np.float32)
    both = given_answers([random.randrange(CLASSES) for _ in first_NK], first_NK, second_NK)
    there, back = accuracy_delta(both, 0, 1), accuracy_delta(both, 1, 0)
    a, b = (accuracy(both, i, contract()) for i in (0, 1))
    assert there.points == pytest.approx(b.top1_percent - a.top1_percent)
    assert (there.lost, there.won, there.agreement_percent) == (back.won, back.lost, back.agreement_percent)
    assert there.mcnemar_p == pytest.approx(back.mcnemar_p)
    assert sum(c.images for c in there.classes) == there.images
    # Of the classes, weighed by their images, comes the whole.
    assert sum(c.images * c.points for c in there.classes) / there.images == pytest.approx(there.points, abs=1e-9)
    assert [c.points for c in there.classes] == sorted(c.points for c in there.classes)
    same = accuracy_delta(both, 0, 0)
    assert (same.agreement_percent, same.lost, same.won, same.mcnemar_p) == (100, 0, 0, 1)


def test_bins_by_hand() -> None:
    confidence_N = np.array([0.0, 0.5, 0.51, 0.9, 1.0])
    low, high = reliability_bins(confidence_N, np.array([False, True, True, False, True]), bins=2)
    assert (low.low, low.high, low.images, low.accuracy_percent, low.confidence_percent) == (0, 0.5, 2, 50, 25)
    assert high.images == 3
    assert high.accuracy_percent == pytest.approx(200 / 3)
    assert high.confidence_percent == pytest.approx(100 * 2.41 / 3)
    assert reliability_bins(np.array([0.4]), np.array([True]), bins=2)[1].accuracy_percent is None


@given(confidence_N=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), seed=st.integers(0, 9))
def test_bins_hold_every_image_and_give_the_calibration_error(confidence_N: NDArray[np.float64], seed: int) -> None:
    right_N = np.random.default_rng(seed).random(len(confidence_N)) < 0.5
    bins = reliability_bins(confidence_N, right_N)
    assert sum(row.images for row in bins) == len(confidence_N)
    gaps = [row.images * abs((row.accuracy_percent or 0) - (row.confidence_percent or 0)) for row in bins]
    assert sum(gaps) / len(confidence_N) == pytest.approx(100 * calibration_error(confidence_N, right_N), abs=1e-9)


@given(
    hnp.arrays(np.float64, st.shared(st.integers(1, 60), key="n"), elements=st.floats(2**-10, 1.0)),
    hnp.arrays(np.bool_, st.shared(st.integers(1, 60), key="n")),
    st.integers(1, 20),
)
def test_calibration_error_as_guo_et_al_write_it(
    confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int
) -> None:
    expected = 0.0
    for m in range(1, bins + 1):
        inside = (confidence_N > (m - 1) / bins) & (confidence_N <= m / bins)
        if inside.any():
            gap = abs(right_N[inside].mean() - confidence_N[inside].mean())
            expected += inside.sum() / len(confidence_N) * gap
    assert calibration_error(confidence_N, right_N, bins) == pytest.approx(expected, abs=1e-12)  # sums in another order


def test_a_confidence_on_a_bin_edge_belongs_below() -> None:
    """0.5 is in (0, 0.5]: with 0.6 above it, each bin has its own gap."""
    found = calibration_error(np.array([0.5, 0.6]), np.array([True, False]), bins=2)
    assert found == pytest.approx((0.5 + 0.6) / 2)
